#!/usr/bin/env bash
# What only a GPU can show, on a machine with one and nothing to install: the fake-quant kernels against the CPU, NCCL
# on one rank with its deadline and its abort, 20 steps of quantization-aware training in FP32, BF16 and FP16 against
# the CPU, two NCCL ranks and a job of two workers (on two GPUs where there are two, else on one, where NCCL allows it), whose
# gradients leave early and late, the exit code when memory runs out, and throughput with and without --qat. At most 8 minutes.
# Without a GPU it says that nothing was run.
#
#   scripts/gpu-check.sh
#
# Needs the CUDA set of scripts/setup.sh --cuda, and a binary that was built before: OCTRAIN_BIN, else this checkout's
# (release before debug). OCTRAIN_NCCL may name a newer NCCL; two ranks on one GPU need 2.30.
set -euo pipefail
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

if ! { [ -e /dev/nvidia0 ] || { command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; }; }; then
  echo "SKIPPED: no GPU: scripts/gpu-check.sh has not been run"
  exit 0
fi

if [ -z "${OCTRAIN_BIN:-}" ]; then
  for built in "$repo/target/release/octrain" "$repo/target/debug/octrain"; do
    if [ -x "$built" ]; then OCTRAIN_BIN=$built; break; fi
  done
fi
[ -x "${OCTRAIN_BIN:-}" ] || { echo "gpu-check: no octrain is built here; run cargo build --release" >&2; exit 2; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
ok() { echo "ok      $*"; }
bad() { echo "FAILED  $*"; failed=$((failed + 1)); }

# run SECONDS ARGUMENTS...: octrain within its limit and what is left of 8 minutes; its output in $work/log.
run() {
  local limit=$1 left=$((470 - SECONDS)); shift
  [ "$left" -gt 0 ] || { echo "8 minutes are over" >"$work/log"; return 124; }
  timeout --kill-after=5 $((limit < left ? limit : left)) "$OCTRAIN_BIN" "$@" >"$work/log" 2>&1
}
# The last lines of a command that went wrong.
told() { tail -n "${1:-5}" "$work/log" | sed 's/^/          /'; }

command -v nvidia-smi >/dev/null && nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader

# ---- libraries, kernels, NCCL on one rank
code=0
run 150 doctor --gpu || code=$?
grep -E '^(ok|FAILED) ' "$work/log" || true
failed=$((failed + $(grep -c '^FAILED ' "$work/log" || true)))
if [ $code -ne 0 ] && ! grep -q '^FAILED ' "$work/log"; then bad "octrain doctor --gpu ended with $code"; told; fi
nccl=$(sed -n 's/^ok  *NCCL: \([0-9]*\).*/\1/p' "$work/log")

# ---- two ranks
gpus=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU ' || true)
where="one GPU"; [ "$gpus" -lt 2 ] || where="two GPUs"
pairs=no
if [ "$gpus" -ge 2 ] || [ "${nccl:-0}" -ge 23000 ]; then pairs=yes; fi
if [ $pairs = yes ]; then
  code=0
  run 120 doctor --two-ranks || code=$?
  if [ $code -eq 0 ]; then ok "two NCCL ranks on $where"; else bad "two NCCL ranks on $where: ended with $code"; told; fi
else
  echo "SKIPPED: two ranks on one GPU: NCCL ${nccl:-was not found and} does not allow it; name one from 2.30 on in OCTRAIN_NCCL"
fi

# ---- 20 steps against the CPU
small=(--image-root digits --model-arch-name ResNet20 --num-of-class 10 --image-shape "3,32,32" --label-smoothing 0
  --warmup-epochs 0 --batch-size 16 --lr 0.02 --max-steps 20 --print-interval 1 --run-scope train_only --show-config false)
quantized=(--qat --qat-calibration-images 64)

# losses FILE: train.loss of each step of a report, a line each.
losses() { sed -n '/"kind":"step"/s/.*"train.loss":\([-+.0-9eE]*\).*/\1/p' "$1"; }

# near A B TOLERANCE FIRST: whether two files of numbers are as long and differ by at most the tolerance, of 1 or more, and by
# at most FIRST in the first, before which nothing has come apart yet.
near() {
  paste "$1" "$2" | awk -v most="$3" -v first="$4" '
    NF != 2 { bad = 1 }
    { d = $1 - $2; if (d < 0) d = -d; s = $1 > 1 ? $1 : 1; if (d / s > worst) worst = d / s }
    NR == 1 { begun = worst }
    END { printf "%d steps, losses differ by at most %.2g (allowed %.2g), the first by %.2g (allowed %.2g)\n", NR, worst, most, begun, first
          exit !(NR == 20 && !bad && worst <= most && begun <= first) }'
}

# Floating point multiplies in TF32 on a GPU, unless it is to be quantized. A code next to a half is another one after the least
# rounding error. So losses come apart a little; what is exact doctor has compared.
for precision in "off - 0.05 0.01" "off qat 0.1 0.01" "bf16 qat 0.1 0.1" "fp16 qat 0.1 0.1"; do
  read -r amp qat tolerance first <<<"$precision"
  what="20 steps in floating point, --amp $amp, against the CPU"
  recipe=()
  if [ "$qat" = qat ]; then
    recipe=("${quantized[@]}")
    what="20 QAT steps, --amp $amp, against the CPU"
  fi
  code=0
  for device in cpu cuda; do
    # On the GPU through NCCL, so that its calls are part of a step.
    backend=auto; [ $device = cpu ] || backend=nccl
    name=$device-$amp-$qat
    run 100 train "${small[@]}" "${recipe[@]}" --amp "$amp" --device $device --test-backend $backend \
      --report-file "$work/$name.jsonl" --output-dir "$work/$name" || { code=$?; break; }
    losses "$work/$name.jsonl" >"$work/$name.losses"
  done
  if [ $code -ne 0 ]; then
    bad "$what: on $device it ended with $code"; told
  elif found=$(near "$work/cpu-$amp-$qat.losses" "$work/cuda-$amp-$qat.losses" "$tolerance" "$first"); then
    ok "$what: $found"
  else
    bad "$what: $found"
  fi
done

# ---- a job of two workers
if [ $pairs = yes ]; then
  what="20 QAT steps of two workers on $where, against two on the CPU"
  # Few channels: ranks that share the processors must all fit, or they wait for each other for ever.
  cuda=(--device cuda)
  if [ "$gpus" -lt 2 ]; then
    export NCCL_MULTI_RANK_GPU_ENABLE=1 NCCL_MAX_CTAS=4
    cuda+=(--test-backend nccl)
  fi
  code=0
  for name in cpu early late; do
    case $name in
      cpu) export OCTRAIN_OVERLAP=1; place=(--device cpu) ;;
      early) export OCTRAIN_OVERLAP=1; place=("${cuda[@]}") ;;
      late) export OCTRAIN_OVERLAP=0; place=("${cuda[@]}") ;;
    esac
    run 100 train "${small[@]}" "${quantized[@]}" --nproc 2 --deterministic "${place[@]}" \
      --report-file "$work/two-$name.jsonl" --output-dir "$work/two-$name" || { code=$?; break; }
    losses "$work/two-$name.jsonl" >"$work/two-$name.losses"
  done
  unset OCTRAIN_OVERLAP NCCL_MULTI_RANK_GPU_ENABLE NCCL_MAX_CTAS
  if [ $code -ne 0 ]; then
    bad "$what: on $name it ended with $code"; told
  elif found=$(near "$work/two-cpu.losses" "$work/two-early.losses" 0.1 0.01); then
    ok "$what: $found"
  else
    bad "$what: $found"
  fi
  what="the same steps, gradients leaving while backward runs and after it, --deterministic"
  if [ $code -eq 0 ]; then
    if cmp -s "$work/two-early.losses" "$work/two-late.losses"; then
      ok "$what: the same losses"
    else
      bad "$what: other losses"; paste "$work/two-early.losses" "$work/two-late.losses" | sed 's/^/          /'
    fi
  fi
fi

# ---- memory
imagenet=(--image-root synthetic --model-arch-name ResNet50 --num-of-class 1000 --run-scope train_only --device cuda
  --show-config false --warmup-epochs 0)
code=0
run 90 train "${imagenet[@]}" --batch-size 8192 --synthetic-images 8192 --max-steps 1 --output-dir "$work/memory" || code=$?
if [ $code -eq 2 ] && grep -q 'out of memory.*--batch-size' "$work/log"; then
  ok "memory that runs out is a configuration error with advice"
else
  bad "memory that runs out: ended with $code, not with 2 and advice on --batch-size"; told
fi

# ---- throughput
for qat in false true; do
  code=0
  run 90 train "${imagenet[@]}" --qat $qat --amp bf16 --batch-size 64 --synthetic-images 2048 --benchmark true \
    --benchmark-steps 20 --benchmark-warmup-steps 10 --output-dir "$work/speed-$qat" || code=$?
  if [ $code -eq 0 ] && speed=$(grep -o 'train.ips .*' "$work/log"); then
    ok "throughput, ResNet50, 64 images, BF16, --qat $qat: $speed"
  else
    bad "throughput with --qat $qat: ended with $code"; told
  fi
done

echo "gpu-check: $failed failed, in $SECONDS s"
[ $failed -eq 0 ]
