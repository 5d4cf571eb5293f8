#!/usr/bin/env bash
# Ten epochs of quantization-aware fine-tuning of ResNet-50 v1.5 in FP16 mixed precision, from the checkpoint that
# train_resnet50_AMP_90E.sh leaves, or from what Paddle left: a folder with resnet_50_paddle.pdmodel and its companions.
#
#   IMAGENET=/imagenet scripts/training/train_resnet50_AMP_QAT_10E.sh [CHECKPOINT OR FOLDER OF PADDLE'S] [LAUNCH OR TRAIN FLAGS]
#
# The recipe of the reference's eight-GPU script: 8 x 256 images a step and a peak learning rate of 8 x 0.00005.
# Started again, it goes on from the furthest checkpoint of its output folder (anew: --last-epoch-of-checkpoint none --overwrite).
# Both stay as they are on fewer GPUs, which take more microbatches each. A flag given here wins over the recipe;
# --image-shape 3,224,224 is for networks of three channels, such as torchvision's.
# --target onnxruntime or tensorrt trains with that runtime's placement of the quantizers instead of OpenVINO's.
set -euo pipefail
checkpoint=output/resnet50_amp
case ${1:---} in -*) ;; *) checkpoint=$1; shift ;; esac
exec "$(dirname "${BASH_SOURCE[0]}")/../launch.sh" \
  --model-arch-name ResNet50 --num-of-class 1000 --image-shape 4,224,224 --image-root "${IMAGENET:-/imagenet}" \
  --from-pretrained-params "$checkpoint" --qat \
  --epochs 10 --batch-size 256 --global-batch-size 2048 \
  --lr 0.0004 --lr-scheduler cosine --warmup-epochs 5 --warmup-start-lr 0 \
  --momentum 0.875 --weight-decay 3.0517578125e-05 --label-smoothing 0.1 \
  --crop-size 224 --resize-short 256 --data-layout NHWC \
  --amp fp16 --scale-loss 128 --use-dynamic-loss-scaling \
  --last-epoch-of-checkpoint auto --output-dir output/resnet50_qat --report-file output/resnet50_qat/train.json "$@"
