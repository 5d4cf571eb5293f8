"""Learning rates of PyTorch's schedulers: linear warm-up, then cosine.

    schedules.py '{"lr":..., "start":..., "warmup":..., "total":...}'   prints a JSON list, one value a step
"""

import json
import sys

import torch


def main(s):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=s["lr"])
    warm = torch.optim.lr_scheduler.LinearLR(optimizer, s["start"] / s["lr"], 1.0, s["warmup"])
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, s["total"] - s["warmup"])
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [warm, cosine], [s["warmup"]])
    rates = []
    for _ in range(s["total"]):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    print(json.dumps(rates))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
