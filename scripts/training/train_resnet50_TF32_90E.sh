#!/usr/bin/env bash
# ResNet-50 v1.5 on ImageNet, 90 epochs in FP32 (TF32 matrix products on GPUs that have them).
#
#   IMAGENET=/imagenet scripts/training/train_resnet50_TF32_90E.sh [LAUNCH OR TRAIN FLAGS]
#
# The recipe of the reference's eight-GPU script: 8 x 256 images a step and a peak learning rate of 8 x 0.256.
# Started again, it goes on from the furthest checkpoint of its output folder (anew: --last-epoch-of-checkpoint none --overwrite).
# Both stay as they are on fewer GPUs, which take more microbatches each. A flag given here wins over the recipe.
set -euo pipefail
exec "$(dirname "${BASH_SOURCE[0]}")/../launch.sh" \
  --model-arch-name ResNet50 --num-of-class 1000 --image-shape 4,224,224 --image-root "${IMAGENET:-/imagenet}" \
  --epochs 90 --batch-size 256 --global-batch-size 2048 \
  --lr 2.048 --lr-scheduler cosine --warmup-epochs 5 --warmup-start-lr 0 \
  --momentum 0.875 --weight-decay 3.0517578125e-05 --label-smoothing 0.1 \
  --crop-size 224 --resize-short 256 --data-layout NHWC --amp off \
  --last-epoch-of-checkpoint auto --output-dir output/resnet50_tf32 --report-file output/resnet50_tf32/train.json "$@"
