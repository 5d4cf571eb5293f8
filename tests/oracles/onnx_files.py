"""Exported files held against ONNX itself.

    onnx_files.py check FILE...       onnx.checker with shape inference; scales are finite and above 0
    onnx_files.py types FILE...       of files in FP16, by onnx.checker and shape inference: the type of every value, as a
                                      strongly typed runtime wants it; the largest difference of ONNX Runtime's results from
                                      those of the same file in FP32 (FILE with `fp32` for `fp16`), in parts of the largest
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


def of_types(path):
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    graph = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True).graph
    kinds = {v.name: v.type.tensor_type.elem_type for v in [*graph.input, *graph.output, *graph.value_info]}
    kinds.update({t.name: t.data_type for t in graph.initializer})
    float32, float16 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
    floats = {float32, float16}
    computed = 0
    for node in graph.node:
        inputs = [kinds[name] for name in node.input if name]
        (output,) = (kinds[name] for name in node.output)
        match node.op_type:
            case "QuantizeLinear":
                assert inputs[0] == inputs[1], f"{node.name}: a value of type {inputs[0]} has a scale of {inputs[1]}"
            case "DequantizeLinear":
                assert output == inputs[1], f"{node.name}: makes {output} of a scale of {inputs[1]}"
            case "Cast":
                assert {inputs[0], output} == floats, f"{node.name}: from {inputs[0]} to {output}"
            case _:
                assert {k for k in inputs if k in floats} == {output} == {float16}, f"{node.name}: {inputs} to {output}"
                computed += 1
    ends = [kinds[v.name] for v in [*graph.input, *graph.output]]
    assert ends == [float32, float32], ends
    return computed


def results(path, x):
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def types(paths):
    apart = []
    for path in paths:
        try:
            assert of_types(path) > 0
        except AssertionError as e:
            sys.exit(f"{path}: {e}")
        shape = [d.dim_value or 4 for d in onnx.load(path).graph.input[0].type.tensor_type.shape.dim]
        x = np.random.default_rng(3).standard_normal(shape, dtype=np.float32)
        half, full = results(path, x), results(path.replace("fp16", "fp32"), x)
        assert half.dtype == full.dtype == np.float32
        apart.append(float(np.abs(half - full).max() / np.abs(full).max()))
    print(" ".join(map(str, apart)))


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
    elif sys.argv[1] == "types":
        types(sys.argv[2:])
    else:
        run(sys.argv[2])
