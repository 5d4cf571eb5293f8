"""Exported files held against ONNX itself.

    onnx_files.py check FILE...       onnx.checker with shape inference; scales are finite and above 0
    onnx_files.py run FOLDER          NAME.onnx on the inputs in NAME.safetensors, for all in FOLDER, by ONNX's reference
                                      evaluator; the first output of each into FOLDER/results.safetensors, by NAME
"""

import pathlib
import sys

import numpy as np
import onnx
from onnx import numpy_helper

import safetensors_io


def check(paths):
    for path in paths:
        model = onnx.load(path)
        try:
            onnx.checker.check_model(model, full_check=True)
        except Exception as e:
            sys.exit(f"{path}: {e}")
        scales = {n.input[1] for n in model.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")}
        for tensor in model.graph.initializer:
            values = numpy_helper.to_array(tensor)
            if tensor.name in scales and not (np.isfinite(values).all() and (values > 0).all()):
                sys.exit(f"{path}: scale {tensor.name} is {values.min()}")
    print(len(paths))


def run(folder):
    from onnx.reference import ReferenceEvaluator

    results = {}
    for path in sorted(pathlib.Path(folder).glob("*.onnx")):
        inputs = safetensors_io.load(path.with_suffix(".safetensors"))
        results[path.stem] = ReferenceEvaluator(onnx.load(path)).run(None, inputs)[0]
    safetensors_io.save(f"{folder}/results.safetensors", results)


if __name__ == "__main__":
    if sys.argv[1] == "check":
        check(sys.argv[2:])
    else:
        run(sys.argv[2])
