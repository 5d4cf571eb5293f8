#!/usr/bin/env bash
# Everything at once on a fresh machine: set-up, build, then train two workers in mixed precision on handwritten
# digits, fine-tune with --qat and without, export, run in INT8, and compare. No argument is needed.
#
#   scripts/quickstart.sh [--data FOLDER] [--nproc 2] [--output runs/quickstart]
#
# FOLDER holds train/<class>/ and val/<class>/ with JPEG or PNG files.
set -euo pipefail
exec "$(dirname "${BASH_SOURCE[0]}")/octrain.sh" quickstart "$@"
