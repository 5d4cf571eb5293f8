"""Fake quantization as others define it: PyTorch with its gradients, and ONNX's QuantizeLinear with DequantizeLinear.

    fake_quant.py IN.safetensors OUT.safetensors

IN: for each case NAME: `NAME.x`, `NAME.scale` ([1] or [channels]), `NAME.qmin`, `NAME.qmax`, `NAME.gradient`.
OUT: `NAME.y`, `NAME.dx` of PyTorch's fake_quantize_*_affine; `NAME.learned_y`, `NAME.learned_dx` and
`NAME.learned_dscale` of its learnable one, with the gradient scale 1 / sqrt(elements * qmax), where there is one scale;
`NAME.onnx_codes` (FP32) and `NAME.onnx_y` of ONNX Runtime and, checked to be equal, of ONNX's reference.
"""

import sys

import numpy
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

import safetensors_io


def code_type(qmax):
    return (numpy.int8, TensorProto.INT8) if qmax < 128 else (numpy.uint8, TensorProto.UINT8)


def onnx_model(shape, scale, qmax):
    """x -> codes, y. ONNX saturates at -128; the codes of a symmetric range that stop at -127 are clipped after."""
    array, element = code_type(qmax)
    axis = {} if scale.size == 1 else {"axis": 0}
    scale = scale.reshape(()) if scale.size == 1 else scale
    zero = numpy.zeros(scale.shape, array)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["codes"], **axis),
        helper.make_node("Max", ["codes", "qmin"], ["clipped"]),
        helper.make_node("DequantizeLinear", ["clipped", "scale", "zero"], ["y"], **axis),
    ]
    graph = helper.make_graph(
        nodes,
        "fake-quant",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape), helper.make_tensor_value_info("qmin", element, [])],
        [helper.make_tensor_value_info("clipped", element, shape), helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [onnx.numpy_helper.from_array(numpy.asarray(scale), "scale"), onnx.numpy_helper.from_array(zero, "zero")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.checker.check_model(model)
    return model


def by_onnx(x, scale, qmin, qmax):
    model = onnx_model(list(x.shape), scale, qmax)
    feed = {"x": x, "qmin": numpy.array(qmin, code_type(qmax)[0])}
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    codes, y = session.run(None, feed)
    want_codes, want_y = ReferenceEvaluator(model).run(None, feed)
    assert numpy.array_equal(codes, want_codes) and numpy.array_equal(y, want_y), "ONNX Runtime is not ONNX"
    return codes.astype(numpy.float32), y


def learned(x, scale, qmin, qmax, gradient):
    x, scale = torch.from_numpy(x).requires_grad_(), torch.from_numpy(scale).requires_grad_()
    grad_scale = 1.0 / float(x.numel() * qmax) ** 0.5
    zero = torch.zeros(1)
    y = torch._fake_quantize_learnable_per_tensor_affine(x, scale, zero, qmin, qmax, grad_scale)
    y.backward(torch.from_numpy(gradient))
    return y.detach().numpy(), x.grad.numpy(), scale.grad.numpy()


def main(source, target):
    given = safetensors_io.load(source)
    out = {}
    for name in sorted({k.rsplit(".", 1)[0] for k in given}):
        values, scale, gradient = (given[f"{name}.{part}"] for part in ("x", "scale", "gradient"))
        qmin, qmax = (int(given[f"{name}.{part}"][0]) for part in ("qmin", "qmax"))
        x, scales = torch.from_numpy(values).requires_grad_(), torch.from_numpy(scale)
        if scale.size == 1:
            y = torch.fake_quantize_per_tensor_affine(x, float(scale[0]), 0, qmin, qmax)
            got = learned(values, scale, qmin, qmax, gradient)
            for part, array in zip(("learned_y", "learned_dx", "learned_dscale"), got):
                out[f"{name}.{part}"] = array
        else:
            zeros = torch.zeros_like(scales, dtype=torch.int32)
            y = torch.fake_quantize_per_channel_affine(x, scales, zeros, 0, qmin, qmax)
        y.backward(torch.from_numpy(gradient))
        out[f"{name}.y"], out[f"{name}.dx"] = y.detach().numpy(), x.grad.numpy()
        out[f"{name}.onnx_codes"], out[f"{name}.onnx_y"] = by_onnx(values, scale, qmin, qmax)
    safetensors_io.save(target, out)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
