#!/usr/bin/env bash
# Builds a TensorRT engine from a file of `octrain export --profile tensorrt`. There is no calibration: every scale is in
# the file, as it was trained.
#
#   scripts/inference/build_tensorrt_engine.sh MODEL.onnx MODEL.engine [FLAGS] [-- TRTEXEC FLAGS]
#
#     --image-shape 3,224,224   channels, height, width of the network's input
#     --min-batch 1 --opt-batch 8 --max-batch 32
#     --weakly-typed            for TensorRT 8.6 to 10: --int8 --fp16, with which TensorRT chooses FP16 or FP32 for what is
#                               not quantized; export the file with --float-type fp32. Without it types are as in the file
#                               (--stronglyTyped: TensorRT 10, and 11, which knows nothing else)
#
# trtexec is taken from TRTEXEC, from PATH, or from /usr/src/tensorrt/bin.
# UNVERIFIED: no TensorRT was at hand when this was written; its tests use a stand-in for trtexec. The flags are those that
# trtexec documents: TensorRT 11 has no --int8 and --fp16, and takes --stronglyTyped without effect.
set -euo pipefail
fail() { echo "build_tensorrt_engine: error: $*" >&2; exit 2; }

files=() extra=() shape=3,224,224 min=1 opt=8 max=32 weak=''
while [ $# -gt 0 ]; do
  case $1 in
    --image-shape|--min-batch|--opt-batch|--max-batch)
      [ $# -ge 2 ] || fail "$1 needs a value"
      case $1 in
        --image-shape) shape=$2 ;; --min-batch) min=$2 ;; --opt-batch) opt=$2 ;; --max-batch) max=$2 ;;
      esac
      shift 2 ;;
    --weakly-typed) weak=yes; shift ;;
    --) shift; extra=("$@"); break ;;
    -h|--help) sed -n '2,16s/^# \{0,1\}//p' "$0"; exit 0 ;;
    -*) fail "'$1' is not a flag of this script; flags of trtexec go behind --" ;;
    *) files+=("$1"); shift ;;
  esac
done
[ ${#files[@]} -eq 2 ] || fail "give the ONNX file and the engine to write; --help shows how"
model=${files[0]} engine=${files[1]}
[ -r "$model" ] || fail "cannot read $model"
# trtexec makes scales up where a file has none and --int8 is given.
grep -aq DequantizeLinear "$model" || fail "$model has no Q/DQ pairs, so it holds no INT8 scales; export a checkpoint trained" \
  "with --qat as --profile tensorrt"
LC_ALL=C grep -aqE 'octrain\.profile.{2}tensorrt' "$model" || fail "$model is not of --profile tensorrt; the Q/DQ pairs of other" \
  "profiles split TensorRT's fusions"
[[ $shape =~ ^[0-9]+,[0-9]+,[0-9]+$ ]] || fail "--image-shape is '$shape'; it must be like 3,224,224"
for n in "$min" "$opt" "$max"; do
  [[ $n =~ ^[1-9][0-9]*$ ]] || fail "'$n' is not a batch size"
done
[ "$min" -le "$opt" ] && [ "$opt" -le "$max" ] || fail "batch sizes $min, $opt, $max must not fall: min, opt, max"

trtexec=${TRTEXEC:-$(command -v trtexec || true)}
[ -n "$trtexec" ] || trtexec=/usr/src/tensorrt/bin/trtexec
[ -x "$trtexec" ] || fail "trtexec was not found ($trtexec); install TensorRT, or say where it is: TRTEXEC=/path/to/trtexec"

of() { echo "input:$1x${shape//,/x}"; }
half=''
! LC_ALL=C grep -aqE 'octrain\.float_type.{2}fp16' "$model" || half=yes
precision=(--stronglyTyped)
if [ -n "$weak" ]; then
  [ -z "$half" ] || fail "$model has FP16 scales, which weakly typed TensorRT does not take; export it with --float-type fp32," \
    "or leave --weakly-typed out"
  precision=(--int8 --fp16)
elif [ -z "$half" ]; then
  echo "build_tensorrt_engine: note: $model says FP32 for all that is not quantized, and so it will be computed; export it with" \
    "--float-type fp16" >&2
fi
exec "$trtexec" --onnx="$model" --saveEngine="$engine" "${precision[@]}" \
  --minShapes="$(of "$min")" --optShapes="$(of "$opt")" --maxShapes="$(of "$max")" ${extra[@]+"${extra[@]}"}
