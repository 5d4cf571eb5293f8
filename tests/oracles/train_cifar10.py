"""The floating-point runs of scripts/training/train_cifar10.sh in PyTorch: the same images, augmentation, batches, schedule and
optimizer, torchvision's network (for ViT-32px, timm's written anew); in FP32, or under BF16 autocast.

    train_cifar10.py FOLDER NETWORK bf16|fp32 [SEED [STATE]]

FOLDER holds train/<class>/ and val/<class>/. Prints a JSON line an epoch, then `top1` of the validation set in percent.
STATE is a file to go on from, written every hundred steps: started again, the run goes on with the same images in the same order
(cut and flipped otherwise).
"""

import json
import os
import random
import statistics
import sys
import time

import torch
import torchvision
from torch import nn
from torchvision import transforms

import networks

# Epochs, learning rate, images of a batch.
RECIPES = {"ResNet20": (8, 0.1, 64), "MobileNetV2-32px": (4, 0.05, 64), "ViT-32px": (10, 0.001, 128)}


def timms_start(net):
    """timm's initial values of a vision transformer."""
    for module in net.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
    nn.init.trunc_normal_(net.pos_embed, std=0.02)
    nn.init.normal_(net.cls_token, std=1e-6)


def optimizer_of(net, model, lr):
    plain = [p for n, p in net.named_parameters() if p.ndim < 2 or n in ("cls_token", "pos_embed")]
    layers = [p for p in net.parameters() if not any(p is q for q in plain)]
    groups = lambda decay: [{"params": layers, "weight_decay": decay}, {"params": plain, "weight_decay": 0.0}]
    if model == "ViT-32px":
        return torch.optim.AdamW(groups(0.05), lr=lr)
    return torch.optim.SGD(groups(5e-4), lr=lr, momentum=0.9, nesterov=True)


def images(folder, training):
    steps = [transforms.RandomCrop(32, padding=2), transforms.RandomHorizontalFlip()] if training else []
    steps += [transforms.ToTensor(), transforms.Normalize((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))]
    return torchvision.datasets.ImageFolder(folder, transforms.Compose(steps))


def batches(data, batch, seed, epoch, done):
    """The batches of an epoch, in an order of its own, behind those that are done."""
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(1000 * seed + epoch)).tolist()
    rest = torch.utils.data.Subset(data, order[done * batch :])
    return torch.utils.data.DataLoader(rest, batch, drop_last=True)


def kept(state, **parts):
    """Writes the state, whole or not at all."""
    torch.save(parts, f"{state}.new")
    os.replace(f"{state}.new", state)


def main(folder, model, precision, seed="1", state=None):
    seed, amp = int(seed), {"fp32": False, "bf16": True}[precision]
    random.seed(seed)
    torch.manual_seed(seed)
    epochs, lr, batch = RECIPES[model]
    net = networks.build(model, 3, 10, 32)
    if model == "ViT-32px":
        timms_start(net)
    net = net.to(memory_format=torch.channels_last)
    train, val = images(f"{folder}/train", True), images(f"{folder}/val", False)
    optimizer, criterion = optimizer_of(net, model, lr), nn.CrossEntropyLoss()
    warmup = len(train) // batch
    total = epochs * warmup
    warm = torch.optim.lr_scheduler.LinearLR(optimizer, 1e-6, 1.0, warmup)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total - warmup)
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [warm, cosine], [warmup])
    parts = {"net": net, "optimizer": optimizer, "schedule": schedule}
    step, losses, run = 0, [], [model, precision, seed, len(train), torch.__version__]
    if state and os.path.exists(state):
        found = torch.load(state)
        if found["run"] != run:
            sys.exit(f"{state} is of another run: {found['run']}, and this is {run}")
        for name, part in parts.items():
            part.load_state_dict(found[name])
        step, losses = found["step"], found["losses"]
        torch.manual_seed(1000 * seed + step)
    while step < total:
        epoch, done = divmod(step, warmup)
        net.train()
        times = []
        for x, labels in batches(train, batch, seed, epoch, done):
            start = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=amp):
                loss = criterion(net(x.contiguous(memory_format=torch.channels_last)), labels)
            optimizer.zero_grad()
            loss.backward()
            if model == "ViT-32px":
                nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
            times.append(time.perf_counter() - start)
            step += 1
            if state and step % 100 == 0:
                kept(state, run=run, step=step, losses=losses if step % warmup else [], **{n: p.state_dict() for n, p in parts.items()})
        told = {"epoch": epoch, "loss": statistics.mean(losses), "ips": batch / statistics.median(times)}
        print(json.dumps(told), flush=True)
        losses = []
    net.eval()
    hits = count = 0
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=amp):
        for x, labels in torch.utils.data.DataLoader(val, 250):
            hits += (net(x.contiguous(memory_format=torch.channels_last)).argmax(1) == labels).sum().item()
            count += len(labels)
    print(json.dumps({"network": model, "precision": precision, "torchvision": torchvision.__version__, "top1": 100 * hits / count}))


if __name__ == "__main__":
    main(*sys.argv[1:])
