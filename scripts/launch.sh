#!/usr/bin/env bash
# Trains on every GPU of this node, one worker each.
#
#   scripts/launch.sh [TRAIN FLAGS]                          this node alone, with a coordinator of its own
#   scripts/launch.sh --coordinator HOST:PORT [TRAIN FLAGS]  this node's share of a job of several nodes, whose
#                                                            octrain-coordinator listens at HOST:PORT
#                       [--token-file F] [--tls-ca F --tls-cert F --tls-key F]
#                                                            with what shows it that this node is of its job
#   srun --ntasks-per-node=1 scripts/launch.sh --coordinator HOST:PORT ...
#                                                            the same through SLURM (or mpirun --map-by ppr:1:node)
#   scripts/launch.sh --nproc N ...                          N workers instead of one per GPU
#   scripts/launch.sh --device cpu --nproc N ...             N workers on the CPU
#
# GPUs are those of CUDA_VISIBLE_DEVICES, else all that nvidia-smi lists. Without a GPU the CPU must be asked for.
set -euo pipefail
fail() { echo "launch: error: $*" >&2; exit 2; }

coordinator='' nproc='' device='' flags=() credentials=()
while [ $# -gt 0 ]; do
  case $1 in
    --coordinator|--nproc|--device)
      [ $# -ge 2 ] || fail "$1 needs a value"
      declare "${1#--}=$2"; shift 2 ;;
    --coordinator=*|--nproc=*|--device=*)
      name=${1%%=*}; declare "${name#--}=${1#*=}"; shift ;;
    --token-file|--tls-ca|--tls-cert|--tls-key)
      [ $# -ge 2 ] || fail "$1 needs a value"
      credentials+=("$1" "$2"); shift 2 ;;
    --token-file=*|--tls-ca=*|--tls-cert=*|--tls-key=*) credentials+=("$1"); shift ;;
    --) shift ;;
    -h|--help) sed -n '2,15s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) flags+=("$1"); shift ;;
  esac
done

count_gpus() {
  if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
    tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | grep -c . || true
  elif command -v nvidia-smi >/dev/null; then
    { nvidia-smi -L 2>/dev/null || true; } | grep -c '^GPU ' || true
  else
    echo 0
  fi
}

case ${device:-cuda} in
  cuda|auto)
    gpus=$(count_gpus)
    [ "$gpus" -gt 0 ] || fail "no GPU is visible on $(hostname) (nvidia-smi lists none, or CUDA_VISIBLE_DEVICES is" \
      "empty). To train on the CPU, say so: --device cpu --nproc N"
    device=cuda
    nproc=${nproc:-$gpus}
    [ "$nproc" -le "$gpus" ] || fail "--nproc $nproc asks for more workers than the $gpus GPU(s) that are visible" ;;
  cpu)
    [ -n "$nproc" ] || fail "--device cpu needs --nproc N, the number of workers" ;;
  *) fail "--device is '$device'; it must be cuda or cpu" ;;
esac

run="$(dirname "${BASH_SOURCE[0]}")/octrain.sh"
if [ -n "$coordinator" ]; then
  exec "$run" launch --coordinator "$coordinator" --nproc-per-node "$nproc" ${credentials[@]+"${credentials[@]}"} -- --device "$device" ${flags[@]+"${flags[@]}"}
fi
[ ${#credentials[@]} -eq 0 ] || fail "${credentials[0]} needs --coordinator: a job on this node alone draws its own token"
exec "$run" train --nproc "$nproc" --device "$device" ${flags[@]+"${flags[@]}"}
