#!/usr/bin/env bash
# The one local check, and what .ci/run runs: sets itself up, then formatting, lints, scripts and every test.
# One cargo profile (dev) throughout, so nothing is compiled twice. Ends with what was skipped and a line for each step.
#
#   scripts/test.sh            all of it
#   scripts/test.sh --no-cuda-wheels
#                              without fetching the CUDA libraries (2.5 GB), which load without a GPU too; what was
#                              not run for want of them is listed at the end
#   scripts/test.sh NAME ...   set-up, then only the tests whose name contains NAME (as `cargo test` takes it)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-auto}

passed=0 failed=0 summary=''
step() {
  local name=$1 start=$SECONDS outcome=ok; shift
  echo; echo "==> $name: $*"
  if "$@"; then passed=$((passed + 1)); else outcome=FAILED; failed=$((failed + 1)); fi
  summary+=$(printf '%-7s%5ds  %s' $outcome $((SECONDS - start)) "$name")$'\n'
}

# The binaries and examples that tests start, then the tests themselves.
build() { cargo build --locked --workspace --bins --examples --quiet && cargo test --locked --workspace --no-run --quiet; }

documentation() { RUSTDOCFLAGS='-D warnings' cargo doc --locked --workspace --no-deps --quiet; }

# What tests say they did not run is lost among the rest; it is said again at the end.
told=$(mktemp) fetched=$(mktemp)
fetching=''
trap '[ -z "$fetching" ] || kill -- -"$fetching" 2>/dev/null || true; rm -f "$told" "$fetched"' EXIT
tests() { cargo test --locked --workspace --no-fail-fast 2>&1 | tee "$told"; }

cuda_wheels=yes
if [ "${1:-}" = --no-cuda-wheels ]; then cuda_wheels=no; shift; fi

if [ $# -gt 0 ]; then
  scripts/setup.sh --test
  cargo build --locked --workspace --bins --examples # what tests start
  exec cargo test --locked --workspace -- "$@"
fi

step set-up scripts/setup.sh
[ $failed -eq 0 ] || { echo "test: set-up failed, so nothing else can run" >&2; exit 1; }

# What tests alone need is fetched while the code is compiled: one waits for the network, the other for the processors.
for_tests() {
  scripts/setup.sh --test || return
  if [ $cuda_wheels = yes ]; then
    scripts/setup.sh --cuda-apart
  else
    echo "test: --no-cuda-wheels: the CUDA libraries are not fetched"
  fi
}
set -m # a group of its own, so that what ends this script ends it, too
for_tests >"$fetched" 2>&1 &
fetching=$!
set +m
# Its end, and what it said.
arrived() { local outcome=0; wait "$fetching" || outcome=$?; fetching=''; cat "$fetched"; return $outcome; }
checked_scripts() { "$(echo .deps/python/lib/python3.*/site-packages/bin/shellcheck)" "${shell_files[@]}"; }

mapfile -t shell_files < <(find scripts .ci deploy tests/fixtures -type f \( -name '*.sh' -o -path .ci/run \) | sort)

step formatting cargo fmt --all --check
step lints cargo clippy --locked --workspace --all-targets --quiet -- -D warnings
step documentation documentation
step build build
step "set-up of the tests" arrived
step shellcheck checked_scripts
step tests tests

if grep -q SKIPPED: "$told"; then echo; echo "not run here:"; grep -o 'SKIPPED: .*' "$told" | sort -u; fi
echo; echo "steps:"; printf '%s' "$summary"
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
