#!/usr/bin/env bash
# Throughput and latency of the network that export_resnet50_QAT.sh leaves, on synthetic images: the reference's 1024
# steps of 256 images after 16 to warm up. `--image-root FOLDER` measures accuracy as well.
#
#   scripts/inference/infer_resnet50_QAT.sh [MODEL.onnx] [INFER FLAGS, e.g. --batch-size 1]
set -euo pipefail
model=output/resnet50_qat/int8.onnx
case ${1:---} in -*) ;; *) model=$1; shift ;; esac
exec "$(dirname "${BASH_SOURCE[0]}")/../octrain.sh" infer --model "$model" --engine openvino \
  --batch-size 256 --benchmark --benchmark-steps 1024 --benchmark-warmup-steps 16 \
  --report-file output/resnet50_qat/inference.json "$@"
