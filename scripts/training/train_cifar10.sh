#!/usr/bin/env bash
# A small network on CIFAR-10 as JPEGs, on the CPU, in BF16 on two workers: floating point, then post-training quantization,
# QAT and its floating-point control from that checkpoint, exported and deployed. docs/results.md has what came out.
#
#   scripts/training/train_cifar10.sh FOLDER [--network ResNet20|MobileNetV2-32px|ViT-32px] [--seed N] [MORE TRAIN FLAGS]
#
# FOLDER holds train/<class>/ and val/<class>/. Results go to runs/cifar10/<network>-<seed>/; started again, training goes on
# there.
set -euo pipefail
usage() { sed -n '2,8s/^# \{0,1\}//p' "$0"; }
case "${1:-}" in
  -h|--help) usage; exit 0 ;;
  ''|-*) usage >&2; exit 2 ;;
esac
data=$1 network=ResNet20 seed=1; shift
while :; do
  case "${1:-}" in
    --network) network=${2:?--network needs a value}; shift 2 ;;
    --seed) seed=${2:?--seed needs a value}; shift 2 ;;
    *) break ;;
  esac
done
run="$(dirname "${BASH_SOURCE[0]}")/../octrain.sh"
folder=runs/cifar10/$network-$seed

# Epochs of floating point, and from it; their rates; the batch of a worker; the optimizer.
sgd=(--momentum 0.9 --nesterov --weight-decay 0.0005)
case "$network" in
  ResNet20) epochs=8 lr=0.1 more=2 more_lr=0.01 batch=32 optimizer=("${sgd[@]}") ;;
  MobileNetV2-32px) epochs=4 lr=0.05 more=1 more_lr=0.005 batch=32 optimizer=("${sgd[@]}") ;;
  ViT-32px) epochs=10 lr=0.001 more=2 more_lr=0.0001 batch=64
    optimizer=(--optimizer adamw --weight-decay 0.05 --clip-grad-norm 1) ;;
  *) echo "$0: no recipe for --network $network; there are ResNet20, MobileNetV2-32px and ViT-32px" >&2; exit 2 ;;
esac
shared=(
  --model-arch-name "$network" --num-of-class 10 --image-shape "3,32,32" --crop-size 32 --resize-short 32
  --normalize-mean "0.4914,0.4822,0.4465" --normalize-std "0.2470,0.2435,0.2616"
  --batch-size "$batch" --crop-padding 2 "${optimizer[@]}" --label-smoothing 0
  --amp bf16 --nproc 2 --device cpu --seed "$seed" --print-interval 100
)
"$run" train --image-root "$data" "${shared[@]}" --epochs "$epochs" --lr "$lr" --warmup-epochs 1 \
  --eval-interval "$epochs" --save-interval "$epochs" --last-epoch-of-checkpoint auto \
  --output-dir "$folder/fp" --report-file "$folder/fp.jsonl" "$@"
"$run" compare --from-pretrained-params "$folder/fp" --image-root "$data" --output "$folder/compare" -- \
  "${shared[@]}" --epochs "$more" --lr "$more_lr" --warmup-epochs 0 --eval-interval "$more" --save-interval "$more" "$@"
