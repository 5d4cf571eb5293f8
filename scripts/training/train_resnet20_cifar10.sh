#!/usr/bin/env bash
# ResNet-20 on CIFAR-10 as JPEGs, on the CPU: 8 epochs in BF16 on two workers, then post-training quantization, QAT and
# its floating-point control of 2 epochs from that checkpoint, exported and deployed. docs/results.md has what came out.
#
#   scripts/training/train_resnet20_cifar10.sh FOLDER [--seed N] [MORE TRAIN FLAGS]
#
# FOLDER holds train/<class>/ and val/<class>/. Results go to runs/cifar10-<seed>/; started again, training goes on there.
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2; }
data=$1 seed=1; shift
if [ "${1:-}" = --seed ]; then seed=${2:?--seed needs a value}; shift 2; fi
run="$(dirname "${BASH_SOURCE[0]}")/../octrain.sh"
folder=runs/cifar10-$seed

shared=(
  --model-arch-name ResNet20 --num-of-class 10 --image-shape "3,32,32" --crop-size 32 --resize-short 32
  --normalize-mean "0.4914,0.4822,0.4465" --normalize-std "0.2470,0.2435,0.2616"
  --batch-size 32 --crop-padding 2 --momentum 0.9 --nesterov --weight-decay 0.0005 --label-smoothing 0
  --amp bf16 --nproc 2 --device cpu --seed "$seed" --print-interval 100
)
"$run" train --image-root "$data" "${shared[@]}" --epochs 8 --lr 0.1 --warmup-epochs 1 \
  --eval-interval 8 --save-interval 8 --last-epoch-of-checkpoint auto --output-dir "$folder/fp" --report-file "$folder/fp.jsonl" "$@"
"$run" compare --from-pretrained-params "$folder/fp" --image-root "$data" --output "$folder/compare" -- \
  "${shared[@]}" --epochs 2 --lr 0.01 --warmup-epochs 0 --eval-interval 2 --save-interval 2 "$@"
