#!/usr/bin/env bash
# A million simulated jobs: the coordinator and worker processes on a virtual clock, with whatever goes wrong. What must hold is
# checked after every event; a seed that fails is made as small as it can be, and shown event by event.
#
#   scripts/simulate.sh [JOBS]      so many, from seed 0 on (not given: 1000000)
#   scripts/simulate.sh --seed N    one of them, event by event
#
# `scripts/test.sh` runs ten thousand in the same test.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ "${1:-}" = --seed ]; then
  export OCTRAIN_SIMULATION_SEED=${2:?--seed needs a number}
else
  export OCTRAIN_SIMULATION_SEEDS=${1:-1000000}
fi
cargo test --quiet --locked --package octrain-coordinator --test simulation -- --nocapture
