#!/usr/bin/env bash
# Holds the import of Paddle's checkpoints against PaddlePaddle itself: a ResNet-50 in every form that it writes (programs
# of both kinds, 3 and 4 channels, both orders of memory, FP32, FP16 and BF16, training and inference, modules), logits
# within 1e-4, momentum number by number; then the reference's training script on such a folder, export and inference.
#
#   scripts/import-paddle.sh [FOLDER FOR THE PYTHON ENVIRONMENT]
#
# PaddlePaddle comes from PyPI, pinned by hash in scripts/requirements/apart/paddle.txt. Needs Python 3.11 to 3.13 and 3 GB of
# disk; takes some ten minutes on two cores.
set -euo pipefail
export PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1
case "${1:-}" in
  -h|--help) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;;
  -*) sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
place=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/octrain/paddle}
list=$repo/scripts/requirements/apart/paddle.txt
die() { echo "import-paddle: error: $*" >&2; exit 2; }

python_tag=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
case $python_tag in
  3.11|3.12|3.13) ;;
  *) die "PaddlePaddle is pinned for CPython 3.11 to 3.13; python3 is $python_tag" ;;
esac
if [ -n "$(ls -A "$place" 2>/dev/null)" ] && [ ! -e "$place/pyvenv.cfg" ]; then
  die "$place is there and no Python environment; name an empty or a new folder"
fi

"$repo/scripts/setup.sh" --test >&2
# Made for one list and one interpreter.
stamp="$(sha256sum <"$list" | cut -c1-12) $python_tag $(python3 -c 'import sys; print(sys.base_prefix)')"
if [ "$(cat "$place/.made-for" 2>/dev/null)" != "$stamp" ]; then
  echo "import-paddle: installing PaddlePaddle in $place (about 250 MB)" >&2
  python3 -m venv --clear "$place"
  "$place/bin/python" -m pip install --quiet --no-deps --only-binary=:all: --require-hashes -r "$list" >&2
  "$place/bin/python" -c 'import paddle' >&2
  echo "$stamp" >"$place/.made-for"
fi
place=$(cd "$place" && pwd)
cd "$repo"
cargo build --locked --workspace --bins
OCTRAIN_PADDLE_PYTHON=$place/bin/python cargo test --locked --package octrain-tests --test paddle -- --nocapture
