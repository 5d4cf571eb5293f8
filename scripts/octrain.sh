#!/usr/bin/env bash
# Runs this checkout's `octrain`: set-up (where missing), release build of it and of `octrain-coordinator` (where stale),
# then the binary.
# OCTRAIN_BIN names another binary to run instead, as the container image does.
#
#   scripts/octrain.sh train --help
set -euo pipefail
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

if [ -z "${OCTRAIN_BIN:-}" ]; then
  "$repo/scripts/setup.sh" >&2
  (cd "$repo" && cargo build --release --locked -p octrain -p octrain-coordinator >&2)
  OCTRAIN_BIN=$repo/target/release/octrain
fi
exec "$OCTRAIN_BIN" "$@"
