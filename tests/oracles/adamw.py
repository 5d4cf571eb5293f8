"""AdamW steps in PyTorch from given weights and gradients.

    adamw.py IN.safetensors OUT.safetensors '{"lr": [...], "beta1":..., "beta2":..., "epsilon":..., "weight_decay":...}'

IN: `decayed` and `rest`, weights with and without decay, and `gradient.<step>`, of both one behind the other.
OUT: `weights`, `first_moment`, `second_moment` after all steps, both groups one behind the other.
"""

import json
import sys

import torch

import safetensors_io


def main(source, target, s):
    given = {k: torch.from_numpy(v) for k, v in safetensors_io.load(source).items()}
    groups = [torch.nn.Parameter(given[name].clone()) for name in ("decayed", "rest")]
    optimizer = torch.optim.AdamW(
        [{"params": [groups[0]], "weight_decay": s["weight_decay"]}, {"params": [groups[1]], "weight_decay": 0.0}],
        lr=1.0,
        betas=(s["beta1"], s["beta2"]),
        eps=s["epsilon"],
    )
    for step, lr in enumerate(s["lr"]):
        for group in optimizer.param_groups:
            group["lr"] = lr
        parts = given[f"gradient.{step}"].split([len(g) for g in groups])
        for p, part in zip(groups, parts):
            p.grad = part.clone()
        optimizer.step()
    join = lambda of: torch.cat([of(p) for p in groups]).detach().numpy()
    safetensors_io.save(
        target,
        {
            "weights": join(lambda p: p),
            "first_moment": join(lambda p: optimizer.state[p]["exp_avg"]),
            "second_moment": join(lambda p: optimizer.state[p]["exp_avg_sq"]),
        },
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
