"""Speed of an INT8 file against those that ONNX Runtime's own static quantizer makes of the same network.

    quantizer_speed.py ENGINE INT8.onnx FP32.onnx [ROUNDS]

ENGINE is `openvino` or `onnxruntime`; both files are of `octrain export`, of one checkpoint. The quantizer's files have unsigned
(u8) and signed (s8) activations and weights per channel. In each round every file runs once (batch 16, two threads), and rounds
go forwards and backwards by turns. Printed: median images a second, and the median of INT8.onnx's share of each in one round.
"""

import pathlib
import statistics
import sys
import tempfile
import time

import numpy as np
import onnx

BATCH, THREADS = 16, 2


def quantized(path, folder):
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    shape = [d.dim_value for d in onnx.load(path).graph.input[0].type.tensor_type.shape.dim][1:]

    class Images(CalibrationDataReader):
        def __init__(self):
            rng = np.random.default_rng(1)
            self.left = [{"input": rng.standard_normal((4, *shape), dtype=np.float32)} for _ in range(3)]

        def get_next(self):
            return self.left.pop() if self.left else None

    prepared = f"{folder}/prepared.onnx"
    quant_pre_process(path, prepared, skip_symbolic_shape=True)
    for name, kind in (("u8", QuantType.QUInt8), ("s8", QuantType.QInt8)):
        settings = dict(quant_format=QuantFormat.QDQ, per_channel=True, weight_type=QuantType.QInt8)
        quantize_static(prepared, f"{folder}/{name}.onnx", Images(), activation_type=kind, **settings)
    return [f"{folder}/u8.onnx", f"{folder}/s8.onnx"], shape


def loaded(engine, path, x):
    if engine == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return lambda: session.run(None, {"input": x})
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": THREADS, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    network = core.compile_model(core.read_model(path), "CPU", settings)
    return lambda: network(x)


def main(engine, ours, float_file, rounds=40):
    with tempfile.TemporaryDirectory() as folder:
        others, shape = quantized(float_file, folder)
        x = np.random.default_rng(0).standard_normal((BATCH, *shape), dtype=np.float32)
        files = [ours, *others]
        runs = [loaded(engine, path, x) for path in files]
        for run in runs:
            for _ in range(3):
                run()
        speeds = [[] for _ in runs]
        for turn in range(int(rounds)):
            order = list(enumerate(runs))
            for i, run in order if turn % 2 == 0 else reversed(order):
                begun = time.perf_counter()
                run()
                speeds[i].append(BATCH / (time.perf_counter() - begun))
        for path, speed in zip(files, speeds):
            share = statistics.median(a / b for a, b in zip(speeds[0], speed))
            print(f"{pathlib.Path(path).name:30} {statistics.median(speed):8.1f} images/s {share:6.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
