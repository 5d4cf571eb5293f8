#!/usr/bin/env bash
# Exports the checkpoint that train_resnet50_AMP_QAT_10E.sh leaves to INT8 ONNX (Q/DQ).
#
#   scripts/inference/export_resnet50_QAT.sh [CHECKPOINT] [EXPORT FLAGS, e.g. --profile onnxruntime|tensorrt]
set -euo pipefail
checkpoint=output/resnet50_qat
case ${1:---} in -*) ;; *) checkpoint=$1; shift ;; esac
exec "$(dirname "${BASH_SOURCE[0]}")/../octrain.sh" export --from-checkpoint "$checkpoint" \
  --profile openvino --output output/resnet50_qat/int8.onnx "$@"
