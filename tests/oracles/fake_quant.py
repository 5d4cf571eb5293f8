"""PyTorch's fake quantization: forward and gradient, per tensor and per channel.

    fake_quant.py IN.safetensors OUT.safetensors

IN: for each case NAME: `NAME.x`, `NAME.step` ([1] or [channels]), `NAME.qmin`, `NAME.gradient`.
OUT: `NAME.y`, `NAME.dx`.
"""

import sys

import torch

import safetensors_io


def main(source, target):
    given = safetensors_io.load(source)
    out = {}
    for name in sorted({k.rsplit(".", 1)[0] for k in given}):
        x = torch.from_numpy(given[f"{name}.x"]).requires_grad_()
        step, qmin = torch.from_numpy(given[f"{name}.step"]), int(given[f"{name}.qmin"][0])
        if step.numel() == 1:
            y = torch.fake_quantize_per_tensor_affine(x, float(step[0]), 0, qmin, 127)
        else:
            y = torch.fake_quantize_per_channel_affine(x, step, torch.zeros_like(step, dtype=torch.int32), 0, qmin, 127)
        y.backward(torch.from_numpy(given[f"{name}.gradient"]))
        out[f"{name}.y"], out[f"{name}.dx"] = y.detach().numpy(), x.grad.numpy()
    safetensors_io.save(target, out)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
