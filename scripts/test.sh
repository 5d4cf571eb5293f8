#!/usr/bin/env bash
# The one local check, and what .ci/run runs: sets itself up, then formatting, scripts, every test, and beside those lints and documentation.
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

# What tests say they did not run is lost among the rest; it is said again at the end.
logs=''
tests() {
  local outcome=0
  cargo test --locked --workspace --no-fail-fast 2>&1 | tee "$told" || outcome=$?
  touch "$told.over"
  return $outcome
}

# apart NAME COMMAND: begins a part beside the others, in a group of its own, so that what ends this script ends it, too.
declare -A begun
apart() {
  local name=$1; shift
  set -m
  "$@" >"$logs/$name" 2>&1 &
  begun[$name]=$!
  set +m
}
# arrived NAME: its end, and what it said.
arrived() {
  local outcome=0
  wait "${begun[$1]}" || outcome=$?
  unset "begun[$1]"
  cat "$logs/$1"
  return $outcome
}
# However this ends, nothing of it is left, and what a part has said by then is not lost.
ended() {
  local name
  for name in "${!begun[@]}"; do
    kill -- -"${begun[$name]}" 2>/dev/null || true
    [ ! -s "$logs/$name" ] || { echo; echo "==> $name, as far as it came:"; cat "$logs/$name"; }
  done
  [ -z "$logs" ] || rm -rf "$logs"
}
trap ended EXIT

cuda_wheels=yes
if [ "${1:-}" = --no-cuda-wheels ]; then cuda_wheels=no; shift; fi

if [ $# -gt 0 ]; then
  scripts/setup.sh --test
  cargo build --locked --workspace --bins --examples # what tests start
  exec cargo test --locked --workspace -- "$@"
fi

logs=$(mktemp -d)
told=$logs/tests
touch "$told"

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
apart fetched for_tests
checked_scripts() { "$(echo .deps/python/lib/python3.*/site-packages/bin/shellcheck)" "${shell_files[@]}"; }

mapfile -t shell_files < <(find scripts .ci deploy tests/fixtures -type f \( -name '*.sh' -o -path .ci/run \) | sort)

# Tests wait for one another and for processes a good part of their time: lints and documentation take what they leave of the
# processors. They begin once the tests run, as cargo does one thing at a time where it builds.
beside_tests() {
  until [ -e "$told.over" ] || grep -q Running "$told"; do
    kill -0 $$ 2>/dev/null || return 1
    sleep 1
  done
  local outcome=0 start=$SECONDS
  nice -n 19 cargo clippy --locked --workspace --all-targets --quiet -- -D warnings || outcome=1
  echo "lints: $((SECONDS - start)) s"
  RUSTDOCFLAGS='-D warnings' nice -n 19 cargo doc --locked --workspace --no-deps --quiet || outcome=1
  echo "lints and documentation: $((SECONDS - start)) s"
  return $outcome
}

step formatting cargo fmt --all --check
step build build
step "set-up of the tests" arrived fetched
step shellcheck checked_scripts
apart lints beside_tests
step tests tests
step "lints and documentation, beside the tests" arrived lints

if grep -q SKIPPED: "$told"; then echo; echo "not run here:"; grep -o 'SKIPPED: .*' "$told" | sort -u; fi
if grep -qE '^test .* FAILED$' "$told"; then echo; echo "failed tests:"; grep -E '^test .* FAILED$' "$told" | sort -u; fi
echo; echo "steps:"; printf '%s' "$summary"
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
