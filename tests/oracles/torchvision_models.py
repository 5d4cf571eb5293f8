"""torchvision's own networks with Octrain's weights, and the other way round.

    torchvision_models.py load MODEL CLASSES WEIGHTS.safetensors IN.safetensors OUT.safetensors
    torchvision_models.py make[-legacy]|moved MODEL CLASSES SEED IN.safetensors OUT.safetensors WEIGHTS

MODEL: a function of torchvision.models, e.g. `resnet50`. IN: `images`. OUT: `logits` of them in evaluation.
WEIGHTS of `make` may end in `.pth`, and is then what torch.save writes; `make-legacy` writes it as it did before version 1.6.
`moved` gives every BatchNorm statistics that a few batches of noise left, so that logits depend on all of its numbers.
`load` takes the file as torchvision's strict load_state_dict wants it; ranges of quantizers (`quant.`), which Octrain keeps
in the same file, are no part of a network of torchvision and are left out. `make` writes the state dict of a network that
torchvision has initialised, as it is. Both print what they saw as one JSON object.
"""

import json
import sys

import torch
import torchvision

import safetensors_io


def evaluated(net, source, target):
    images = torch.from_numpy(safetensors_io.load(source)["images"])
    net.eval()
    with torch.no_grad():
        safetensors_io.save(target, {"logits": net(images).numpy()})


def main(what, model, classes, third, source, target, weights=None):
    torch.set_num_threads(2)
    makes = what.startswith(("make", "moved"))
    if makes:
        torch.manual_seed(int(third))
    net = torchvision.models.get_model(model, num_classes=int(classes))
    if what == "moved":
        with torch.no_grad():
            for _ in range(5):
                net(torch.randn(8, 3, 64, 64) + 0.3)
    own = net.state_dict()
    if makes and weights.endswith(".pth"):
        torch.save(own, weights, _use_new_zipfile_serialization=what != "make-legacy")
    elif makes:
        safetensors_io.save(weights, {name: tensor.numpy() for name, tensor in own.items()})
    else:
        given = safetensors_io.load(third)
        given = {k: torch.from_numpy(v) for k, v in given.items() if not k.startswith("quant.")}
        net.load_state_dict(given, strict=True)
        own = {name: own[name] for name in given}
    evaluated(net, source, target)
    counters = {n: int(t) for n, t in net.state_dict().items() if n.endswith("num_batches_tracked")}
    told = {"torchvision": torchvision.__version__, "tensors": len(own), "counters": counters}
    print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
