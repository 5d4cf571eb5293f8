#!/usr/bin/env bash
# Mutation testing of the core: changes its decisions and formulas one at a time, and shows which of the changes its own
# tests do not notice. No part of scripts/test.sh, for it takes an hour of one core; docs/testing.md has the last figures.
#
#   scripts/mutants.sh                      all rooms of worker/core/src, in order
#   scripts/mutants.sh quant passes         only these
#   scripts/mutants.sh --missed [ROOM ...]  once more, only what the last run did not catch
#
# Needs cargo-mutants (cargo install cargo-mutants --locked) and no libtorch. Results are in target/mutants/ROOM; a copy
# of the checkout is built in a temporary folder. Ends with 2 where a mutant was missed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

command -v cargo-mutants >/dev/null || {
  echo "mutants: cargo-mutants is not installed: cargo install cargo-mutants --locked" >&2
  exit 2
}
again=()
if [ "${1:-}" = --missed ]; then again=(--iterate); shift; fi
rooms=("$@")
[ ${#rooms[@]} -gt 0 ] || rooms=(strategy graph passes quant models)

# Built and run hundreds of times: what a debugger or a fast loop wants would cost more than it gives.
export CARGO_PROFILE_DEV_OPT_LEVEL=0 CARGO_PROFILE_DEV_DEBUG=0
missed=0
for room in "${rooms[@]}"; do
  [ -d "worker/core/src/$room" ] || { echo "mutants: there is no room worker/core/src/$room" >&2; exit 2; }
  mkdir -p "target/mutants/$room"
  # Loops that a mutant makes endless end after a minute; the doc tests are left out, which take longer than all others.
  cargo mutants --package octrain-core --test-package octrain-core --file "worker/core/src/$room/**" --no-shuffle \
    --timeout 60 --build-timeout 300 --cargo-test-arg=--tests --output "target/mutants/$room" "${again[@]}" || missed=1
done
for room in "${rooms[@]}"; do
  for outcome in caught timeout unviable missed; do
    file=target/mutants/$room/mutants.out/$outcome.txt
    printf '%-10s %-9s %4d\n' "$room" "$outcome" "$(wc -l <"$file")"
  done
done
[ $missed -eq 0 ] || { echo "mutants: what was missed stands in target/mutants/ROOM/mutants.out/missed.txt" >&2; exit 2; }
