"""Networks as ONNX files with what ONNX Runtime makes of them.

    onnx_networks.py cases FOLDER          ONNX's own node test cases, one file each, for the operators in OPERATORS
    onnx_networks.py export FOLDER NAME... networks of torchvision, as torch.onnx.export writes them in several ways; of
                                           NAME:WAY in that way alone
    onnx_networks.py light FOLDER NAME...  the light models of the onnx package
    onnx_networks.py newest FOLDER         a small network, as PyTorch's newer exporter writes it (needs onnxscript, which the
                                           tests have not: tests/fixtures/onnx holds what this made)

Each writes FOLDER/NAME.onnx and FOLDER/NAME.safetensors, with `input` and `output`, and prints the names as JSON.
What normalises is drawn at random: those of a new network would hide which of them is which.
"""

import json
import pathlib
import sys
import warnings

import numpy as np
import onnx
from onnx import numpy_helper

import safetensors_io

OPERATORS = """Add AveragePool BatchNormalization Cast Clip Concat Conv Div Dropout Expand Flatten Gather Gelu Gemm
GlobalAveragePool HardSigmoid HardSwish Identity LayerNormalization MatMul Max MaxPool Min Mul Neg Pad ReduceMean Relu Reshape
Sigmoid Slice Softmax Split Squeeze Sub Sum Transpose Unsqueeze""".split()
# The newest operator set that is taken. What changed in the operators above since is the types that they take.
OPSET = 21


def put(folder, name, model, given, made):
    onnx.save(model, f"{folder}/{name}.onnx")
    safetensors_io.save(f"{folder}/{name}.safetensors", {"input": given, "output": made})


def cases(folder):
    warnings.filterwarnings("ignore")
    from onnx.backend.test.case.node import collect_testcases

    told = {}
    for case in collect_testcases(None):
        graph, used = case.model.graph, {n.op_type for n in case.model.graph.node}
        if not used <= set(OPERATORS) or len(graph.node) != 1 or case.data_sets is None:
            continue
        inputs, outputs = case.data_sets[0]
        if not inputs or not all(isinstance(array, (np.ndarray, np.generic)) for array in [*inputs, *outputs]):
            continue
        wanted = [np.asarray(i) for i in inputs]
        # One input is the image's, with the batch first; all others become weights.
        if wanted[0].dtype != np.float32 or wanted[0].ndim < 2 or outputs[0].dtype != np.float32:
            continue
        model = onnx.ModelProto()
        model.CopyFrom(case.model)
        for value, array in list(zip(graph.input, wanted))[1:]:
            model.graph.initializer.append(numpy_helper.from_array(array, value.name))
        del model.graph.input[1:]
        del model.graph.output[1:]
        for own in model.opset_import:
            own.version = min(own.version, OPSET)
        told[case.name] = graph.node[0].op_type
        put(folder, case.name, model, wanted[0], np.asarray(outputs[0]))
    return told


def logits(path, image):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: image})[0]


def network(name):
    import torch
    import torchvision

    if name == "small_vit":
        size = dict(image_size=32, patch_size=8, num_layers=2, num_heads=3, hidden_dim=48, mlp_dim=96)
        net = torchvision.models.VisionTransformer(num_classes=7, **size)
    else:
        more = {"image_size": 32} if name.startswith("vit") else {"init_weights": False} if name == "googlenet" else {}
        net = torchvision.models.get_model(name, num_classes=7, **more)
    return drawn(net)


def drawn(net):
    import torch

    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.1)
        if isinstance(module, torch.nn.LayerNorm):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.1)
    # A head that is new is all zeros, and hides everything before it.
    for parameter in net.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return net.eval()


def seen(net, side):
    """The network with the statistics of noise: others lose the image on the way through many layers."""
    import torch

    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
            module.reset_running_stats()
    net.train()
    with torch.no_grad():
        for _ in range(2):
            net(torch.randn(8, 3, side, side))
    return net.eval()


def export(folder, names):
    import torch

    warnings.filterwarnings("ignore")
    torch.set_num_threads(2)
    told = {}
    eval_ = torch.onnx.TrainingMode.EVAL
    ways = {
        "folded": dict(opset_version=17, dynamic_axes={"x": {0: "batch"}}),
        "kept": dict(opset_version=13, training=eval_, do_constant_folding=False, dynamic_axes={"x": {0: "batch"}}),
        "fixed": dict(opset_version=11),
    }
    for name, way in (name.partition(":")[::2] for name in names):
        torch.manual_seed(3)
        side = 32 if "vit" in name else 64
        net = seen(network(name), side)
        image = torch.randn(2, 3, side, side)
        for way, flags in ways.items() if not way else [(way, ways[way])]:
            # Attention has operators that older sets lack.
            if "vit" in name:
                flags = flags | dict(opset_version=max(14, flags["opset_version"]))
            path = pathlib.Path(folder) / f"{name}-{way}.onnx"
            torch.onnx.export(net, (image,), str(path), input_names=["x"], output_names=["y"], dynamo=False, **flags)
            given = image.numpy()
            safetensors_io.save(path.with_suffix(".safetensors"), {"input": given, "output": logits(path, given)})
            told[path.stem] = [n for n, _ in net.named_parameters()] if way == "kept" else []
    return told


def newest(folder):
    import torch
    from torch import nn

    class Small(nn.Module):
        """Convolutions with gates and a residual sum, a layer of a transformer over the tokens of what they make, a row."""

        def __init__(self):
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU6())
            self.wide = nn.Sequential(nn.Conv2d(12, 24, 1, bias=False), nn.BatchNorm2d(24), nn.Hardswish())
            self.deep = nn.Sequential(nn.Conv2d(24, 24, 5, 1, 2, groups=24, bias=False), nn.BatchNorm2d(24), nn.SiLU())
            self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(24, 24, 1), nn.Hardsigmoid())
            self.thin = nn.Sequential(nn.Conv2d(24, 12, 1, bias=False), nn.BatchNorm2d(12))
            self.patches = nn.Conv2d(12, 16, 2, 2)
            self.token = nn.Parameter(torch.randn(1, 1, 16))
            self.layer = nn.TransformerEncoderLayer(16, 2, 32, activation="gelu", batch_first=True, norm_first=True)
            self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 7)

        def forward(self, x):
            x = self.stem(x)
            y = self.deep(self.wide(x))
            x = nn.functional.pad(x + self.thin(y * self.gate(y)), (0, 1, 0, 1))[:, :, :-1, :-1]
            x = self.patches(nn.functional.max_pool2d(x, 2)).flatten(2).transpose(1, 2)
            x = self.layer(torch.cat([self.token.expand(len(x), -1, -1), x], 1))
            return self.head(self.norm(x)[:, 0])

    torch.manual_seed(3)
    net, image = drawn(Small()), torch.randn(2, 3, 32, 32)
    path = pathlib.Path(folder) / "newest.onnx"
    batch = {0: torch.export.Dim("batch")}
    torch.onnx.export(
        net, (image,), str(path), input_names=["x"], output_names=["y"], dynamo=True, external_data=False, dynamic_shapes=(batch,)
    )
    # Where each node stood in the program is half of the file, and names folders.
    model = onnx.load(path)
    for part in [model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output]:
        del part.metadata_props[:]
    for node in model.graph.node:
        node.doc_string = ""
    put(folder, "newest", model, image.numpy(), logits(path, image.numpy()))
    return {"newest": [str(model.opset_import[0].version)]}


def light(folder, names):
    data = pathlib.Path(onnx.__file__).parent / "backend/test/data/light"
    rng = np.random.default_rng(0)
    for name in names:
        model = onnx.load(data / f"light_{name}.onnx")
        weights = {t.name for t in model.graph.initializer}
        [image] = [i for i in model.graph.input if i.name not in weights]
        sizes = [d.dim_value for d in image.type.tensor_type.shape.dim]
        given = rng.standard_normal(sizes, dtype=np.float32)
        # Weights that are all the same number would hide which of them is which.
        if name != "squeezenet" and model.graph.node[-1].op_type == "Softmax":
            # Logits tell more than probabilities, of which one is all.
            del model.graph.node[-1]
            model.graph.output[0].name = model.graph.node[-1].output[0]
        shapes = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        for node in [n for n in model.graph.node if n.op_type == "ConstantOfShape"]:
            shape = shapes[node.input[0]]
            spread = np.sqrt(2 / shape[1:].prod()) if len(shape) > 1 else 0
            drawn = rng.standard_normal(shape) * spread if spread else rng.uniform(0.5, 1.5, shape)
            model.graph.initializer.append(numpy_helper.from_array(drawn.astype(np.float32), node.output[0]))
            model.graph.node.remove(node)
        onnx.save(model, f"{folder}/{name}.onnx")
        put(folder, name, model, given, logits(f"{folder}/{name}.onnx", given))
    return {name: [] for name in names}


if __name__ == "__main__":
    what, folder, *names = sys.argv[1:]
    made = {"cases": cases, "export": export, "light": light, "newest": newest}[what]
    print(json.dumps(made(folder, names) if names else made(folder)))
