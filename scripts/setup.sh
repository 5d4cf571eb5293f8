#!/usr/bin/env bash
# Fetches the native libraries Octrain is built on and lays a link `.deps` to them. Safe to run again: what is
# there already is left alone, and two runs at once wait for each other.
#
#   scripts/setup.sh            libtorch, OpenVINO, ONNX Runtime, the digits; the CUDA set where there is a GPU
#   scripts/setup.sh --cuda     the CUDA set even without a GPU (for building an image)
#   scripts/setup.sh --no-cuda  no CUDA set even with a GPU
#   scripts/setup.sh --cuda-apart
#                               the CUDA set as .deps/cuda-apart, where no run takes it from: for the test that
#                               loads it on a machine without a GPU (about 2.5 GB)
#   scripts/setup.sh --test     also .deps/python: PyTorch, torchvision, ONNX, the engines and shellcheck, for the tests;
#                               and .deps/nvrtc: the compiler of the CUDA kernels, which needs no GPU
#   scripts/setup.sh --crate FOLDER
#                               also FOLDER/.cargo/config.toml: where the libraries are, for a crate of one's own there
#                               that depends on Octrain by path; nothing has to be exported
#
# Everything comes from PyPI, each file pinned by version and sha256 in scripts/requirements/. Needs Python 3
# with pip. The files lie in ${OCTRAIN_CACHE:-$HOME/.cache/octrain}/<hash of the pins>, shared by all clones.
set -euo pipefail
export PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
say() { echo "setup: $*"; }
die() { echo "setup: error: $*" >&2; exit 1; }

want_cuda=auto want_apart=no want_test=no crate=''
while [ $# -gt 0 ]; do
  arg=$1; shift
  case $arg in
    --cuda) want_cuda=yes ;;
    --no-cuda) want_cuda=no ;;
    --cuda-apart) want_apart=yes ;;
    --test) want_test=yes ;;
    --crate)
      [ -d "${1:-}" ] || { echo "setup: --crate wants the folder of a crate, and '${1:-}' is none" >&2; exit 2; }
      crate=$(cd "$1" && pwd); shift ;;
    -h|--help) sed -n '2,18s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "setup: unknown argument '$arg'; it takes --cuda, --no-cuda, --cuda-apart, --test, --crate FOLDER" >&2; exit 2 ;;
  esac
done

if [ $want_cuda = auto ]; then
  want_cuda=no
  if [ -e /dev/nvidia0 ] || { command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; }; then
    want_cuda=yes
    say "found a GPU: the CUDA libraries are part of this set-up"
  fi
fi

[ "$(uname -sm)" = "Linux x86_64" ] || die "the pinned libraries are for Linux on x86_64; this is $(uname -sm)"
command -v python3 >/dev/null || die "python3 is not on the PATH; install Python 3.8 or newer with pip"
python3 -m pip --version >/dev/null 2>&1 || die "'python3 -m pip' does not run; install pip (Debian: python3-pip)"
command -v flock >/dev/null || die "flock is not on the PATH; install util-linux"
for tool in cargo cc c++; do
  command -v $tool >/dev/null || say "note: $tool is not on the PATH; the build that follows needs it"
done

pins=$(cat "$repo"/scripts/requirements/*.txt "$repo"/scripts/setup/*.py | sha256sum | cut -c1-12)
cache=${OCTRAIN_CACHE:-$HOME/.cache/octrain}
deps=$cache/$pins
python_tag=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')

mkdir -p "$deps"
exec 9>"$cache/lock"
flock -n 9 || { say "another set-up is running; waiting for it"; flock -w 3600 9 || die "it still runs after an hour"; }

rm -rf "$cache"/partial.* # left by a run that was killed
work=$(mktemp -d "$cache/partial.XXXXXX")
trap 'rm -rf "$work"' EXIT
wheels=$work/wheels

# fetch LIST [pip options]: downloads a pinned list into $wheels; pip refuses a file whose sha256 differs.
fetch() {
  local list=$1; shift
  timeout 3600 python3 -m pip download --quiet --no-deps --only-binary=:all: \
    --require-hashes --retries 5 --dest "$wheels" -r "$repo/scripts/requirements/$list.txt" "$@" ||
    die "could not fetch the wheels in scripts/requirements/$list.txt (pip's message is above). They need a" \
        "Linux with glibc 2.28 or newer and a way to PyPI or a mirror of it (pip config)"
}
# The libraries do not depend on Python's version, so CPython 3.11's wheel serves every interpreter.
fetch_native() { fetch "$1" --python-version 311 --implementation cp --abi cp311 --abi abi3 --abi none; }

if [ -e "$deps/.native" ]; then
  say "libtorch, OpenVINO, ONNX Runtime, digits: in place"
else
  say "fetching libtorch 2.11.0 (CPU), OpenVINO, ONNX Runtime and the digits (about 640 MB)"
  fetch_native native
  python3 "$repo/scripts/setup/unpack.py" native "$wheels" "$work/native"
  for part in "$work"/native/*; do
    rm -rf "${deps:?}/${part##*/}" && mv "$part" "$deps/"
  done
  touch "$deps/.native"
fi

# cuda_set FOLDER: the CUDA libraries as FOLDER/libtorch-cuda, beside a `libtorch` that they look for.
cuda_set() {
  if [ -e "$1/libtorch-cuda/lib" ]; then
    say "CUDA libraries in $1: in place"
    return
  fi
  say "fetching the CUDA libraries for libtorch 2.11.0, with cuDNN and NCCL (about 2 GB)"
  fetch_native native
  fetch_native cuda
  fetch_native nvrtc
  python3 "$repo/scripts/setup/unpack.py" cuda "$wheels" "$work/libtorch-cuda"
  mkdir -p "$1"
  rm -rf "$1/libtorch-cuda" && mv "$work/libtorch-cuda" "$1/"
}

if [ $want_cuda = yes ]; then cuda_set "$deps"; fi

if [ $want_apart = yes ]; then
  if [ -e "$deps/libtorch-cuda/lib" ]; then
    say "CUDA libraries apart: not needed, $deps has them"
  else
    cuda_set "$deps/cuda-apart"
    ln -sfn ../libtorch "$deps/cuda-apart/libtorch"
  fi
fi

if [ $want_test = yes ]; then
  if [ -e "$deps/nvrtc" ]; then
    say "NVRTC: in place"
  else
    say "fetching NVRTC for the tests (about 90 MB)"
    fetch_native nvrtc
    python3 "$repo/scripts/setup/unpack.py" nvrtc "$wheels" "$work/nvrtc"
    mv "$work/nvrtc" "$deps/"
  fi

  # Made for one interpreter: made anew when another Python, or the same one elsewhere, runs this.
  stamp="$python_tag $(python3 -c 'import sys; print(sys.base_prefix)')"
  if [ "$(cat "$deps/python/.made-for" 2>/dev/null)" = "$stamp" ]; then
    say "Python oracles: in place"
  else
    case $python_tag in
      3.11|3.12|3.13|3.14) ;;
      *) die "the oracles are pinned for CPython 3.11 to 3.14; python3 is $python_tag" ;;
    esac
    say "fetching PyTorch, torchvision, ONNX, the engines and shellcheck for the tests (about 2.3 GB)"
    fetch python
    say "installing them in .deps/python"
    python3 -m venv --without-pip "$work/python"
    python3 -m pip install --quiet --no-deps --no-index --find-links "$wheels" \
      --no-compile --require-hashes --target "$work/python/lib/python$python_tag/site-packages" \
      -r "$repo/scripts/requirements/python.txt" || die "pip could not install the test oracles"
    timeout 300 "$work/python/bin/python" -c 'import numpy, onnx, onnxruntime, openvino, torch, torchvision' ||
      die "the test oracles are installed but do not import (Python's message is above)"
    echo "$stamp" >"$work/python/.made-for"
    rm -rf "$deps/python" && mv "$work/python" "$deps/"
  fi
fi

if [ -e "$repo/.deps" ] && [ ! -L "$repo/.deps" ]; then
  die "$repo/.deps is a folder or file, not the link this script lays; move it away and run again"
fi
if [ "$(readlink "$repo/.deps" || true)" != "$deps" ]; then
  ln -s "$deps" "$work/link" && mv -T "$work/link" "$repo/.deps"
fi
if [ -n "$crate" ]; then
  config=$crate/.cargo/config.toml
  if [ -e "$config" ] && ! grep -q '^# Written by octrain' "$config"; then
    die "$config is there and not of this script: add to it what scripts/setup.sh --crate writes into an empty folder"
  fi
  mkdir -p "$crate/.cargo"
  cat >"$config" <<EOF
# Written by octrain's scripts/setup.sh --crate: where libtorch is, for the build and for what is built.
[env]
LIBTORCH = "$deps/libtorch"
OCTRAIN_DEPS = "$deps"

[build]
rustflags = ["-C", "link-arg=-Wl,-rpath,$deps/libtorch/lib"]
rustdocflags = ["-C", "link-arg=-Wl,-rpath,$deps/libtorch/lib"]
EOF
  say "wrote $config"
fi
say "ready: .deps -> $deps"
