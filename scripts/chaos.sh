#!/usr/bin/env bash
# Real jobs on this machine (ResNet-20 on digits, four workers of one thread), to each of which one fault is done at a moment that a
# seed decides; what must hold all the same is checked after each, and what it took stands in a table at the end. Then as many
# checkpoints and a half whose writer is killed, and the rendezvous of 1,024 and 10,000 simulated workers.
#
#   scripts/chaos.sh [RUNS] [--seed S] [--only KIND] [--report-file FILE]
#
# RUNS: how many (not given: 200, an hour); S: the first seed, the others follow it (not given: 0). KIND: worker-kill, worker-stop,
# coordinator-kill, coordinator-stop, launcher-kill, launcher-stop, same-workers, disk-full and link (as root), checkpoint-kill
# (with strace), overhead, rendezvous. FILE: a line of JSON for each run and each figure is appended.
# OCTRAIN_CHAOS_HEARTBEAT: --heartbeat-timeout of the jobs, in seconds (not given: 1).
#
# `scripts/test.sh` runs a few of them in the same tests.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
runs=200 seed=0 only='' report=''
while [ $# -gt 0 ]; do
  case $1 in
    --seed) seed=${2:?--seed needs a number}; shift 2 ;;
    --only) only=${2:?--only needs a kind}; shift 2 ;;
    --report-file) report=$(realpath -m "${2:?--report-file needs a path}"); shift 2 ;;
    -*) echo "chaos: unknown option $1: see the beginning of scripts/chaos.sh" >&2; exit 2 ;;
    *) runs=$1; shift ;;
  esac
done
case $only in
  ''|worker-kill|worker-stop|coordinator-kill|coordinator-stop|launcher-kill|launcher-stop|same-workers|disk-full|link) ;;
  checkpoint-kill|overhead|rendezvous) ;;
  *) echo "chaos: there is no kind $only: see the beginning of scripts/chaos.sh" >&2; exit 2 ;;
esac

export OCTRAIN_CHAOS_RUNS=$runs OCTRAIN_CHAOS_SEED=$seed OCTRAIN_CHAOS_KILLS=$((runs * 5 / 2)) OCTRAIN_CHAOS_PAIRS=$((runs / 20 + 1))
export OCTRAIN_CHAOS_HEARTBEAT=${OCTRAIN_CHAOS_HEARTBEAT:-1}
[ -z "$only" ] || export OCTRAIN_CHAOS_ONLY=$only
[ -z "$report" ] || export OCTRAIN_CHAOS_REPORT=$report
failed=0
if [ "$only" != rendezvous ]; then
  cargo build --quiet --locked --workspace --bins --examples
  # One after the other: they are measured.
  cargo test --quiet --locked --workspace --test injection -- --nocapture --test-threads=1 || failed=1
fi
if [ -z "$only" ] || [ "$only" = rendezvous ]; then
  OCTRAIN_RENDEZVOUS=${OCTRAIN_RENDEZVOUS:-1024,10000} cargo test --quiet --release --locked --package octrain-coordinator \
    --test rendezvous -- --nocapture --test-threads=1 || failed=1
fi
exit $failed
