#!/usr/bin/env bash
# Holds the import of Paddle's checkpoints against PaddlePaddle itself: a ResNet-50 in every form that it writes (programs
# of both kinds, 3 and 4 channels, both orders of memory, FP32, FP16 and BF16, training and inference, modules), logits
# within 1e-4, momentum number by number; then the reference's training script on such a folder, export and inference.
#
#   scripts/import-paddle.sh [FOLDER FOR THE PYTHON ENVIRONMENT]
#
# Needs Python 3.9 to 3.13 and 3 GB of disk; takes some ten minutes on two cores.
set -euo pipefail
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
place=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/octrain/paddle}
python=$place/bin/python

"$repo/scripts/setup.sh" >&2
if ! "$python" -c 'import paddle' 2>/dev/null; then
  python3 -m venv "$place"
  "$python" -m pip install --quiet paddlepaddle==3.3.1 setuptools >&2
fi
cd "$repo"
cargo build --locked --package octrain --bins
OCTRAIN_PADDLE_PYTHON=$python cargo test --locked --package octrain-tests --test paddle -- --nocapture
