"""EfficientNet-Lite0 as an ONNX file, as torch.onnx.export writes it: BatchNorm folded into the convolutions, TensorFlow's
padding by side traced as computations of the image's size.

    export_efficientnet_lite0.py WEIGHTS.pth NET.onnx

The network is the one that tests/oracles has in PyTorch. Its modules stand in the order of the weights' names, whatever
those are."""

import pathlib
import sys
import warnings

import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests/oracles"))
import networks

weights, file = sys.argv[1:]
warnings.filterwarnings("ignore")
torch.set_num_threads(2)
net = networks.Lite0(3, 1000).eval()
own, given = net.state_dict(), torch.load(weights, weights_only=True, map_location="cpu")
if [t.shape for t in own.values()] != [t.shape for t in given.values()]:
    sys.exit(f"{weights} does not hold the weights of EfficientNet-Lite0 in the order of its layers")
net.load_state_dict(dict(zip(own, given.values())))
torch.onnx.export(
    net,
    (torch.zeros(1, 3, 224, 224),),
    file,
    input_names=["images"],
    output_names=["logits"],
    opset_version=17,
    dynamic_axes={"images": {0: "batch"}},
    dynamo=False,
)
