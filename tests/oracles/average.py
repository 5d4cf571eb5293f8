"""The average of weights and statistics that torchvision's training script keeps, of given ones.

    average.py IN.safetensors OUT.safetensors '{"model":..., "classes":..., "steps":..., "decay":..., ...}'

IN: the network's parameters and buffers after each step, `<step>.<name>`. OUT: their average, `<name>`.
"""

import json
import sys

import torch

import resnet
import safetensors_io


def main(source, target, settings):
    given = {k: torch.from_numpy(v) for k, v in safetensors_io.load(source).items()}
    net = resnet.build(settings["model"], 3, settings["classes"])
    decay = settings["decay"]
    # `ExponentialMovingAverage` of torchvision's references/classification/utils.py, and its use in train.py.
    average = torch.optim.swa_utils.AveragedModel(
        net, avg_fn=lambda old, new, _: decay * old + (1 - decay) * new, use_buffers=True
    )
    for step in range(settings["steps"]):
        prefix = f"{step}."
        state = {k[len(prefix) :]: v for k, v in given.items() if k.startswith(prefix)}
        missing, unexpected = net.load_state_dict(state, strict=False)
        assert not unexpected and all(m.endswith("num_batches_tracked") for m in missing), (missing, unexpected)
        if step % settings["every"] == 0:
            average.update_parameters(net)
            if step < settings["warmup"]:
                average.n_averaged.fill_(0)
    averaged = average.module.state_dict().items()
    safetensors_io.save(target, {n: v.numpy() for n, v in averaged if v.dtype == torch.float32})


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
