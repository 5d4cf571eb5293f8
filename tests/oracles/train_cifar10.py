"""The floating-point runs of scripts/training/train_cifar10.sh in PyTorch: the same images, augmentation, batches, schedule and
optimizer, torchvision's network as torchvision begins it; in FP32 (TF32 on a GPU, as Octrain's), or under BF16 autocast. On a
GPU where there is one.

    train_cifar10.py FOLDER NETWORK bf16|fp32 [SEED [STATE]]

FOLDER holds train/<class>/ and val/<class>/. Prints a JSON line an epoch, then `top1` of the validation set in percent.
STATE is a file to go on from, written every hundred steps: started again, the run goes on with the same images, cut and flipped
alike.
"""

import json
import os
import sys
import time

import torch
import torchvision
from torch import nn
from torchvision.transforms.functional import pil_to_tensor

import networks

# Epochs, learning rate, images of a batch.
RECIPES = {"ResNet20": (8, 0.1, 64), "MobileNetV2-32px": (4, 0.05, 64), "ViT-32px": (10, 0.001, 128)}
# Parameters of torchvision's vision transformer that do not decay, beside biases and LayerNorms.
EMBEDDINGS = ("class_token", "encoder.pos_embedding")


def network(model):
    """torchvision's, with its own initial values and what it leaves out at random; ResNet-20, which it has not, is written here."""
    if model == "ViT-32px":
        return torchvision.models.VisionTransformer(
            image_size=32, patch_size=4, num_layers=6, num_heads=4, hidden_dim=128, mlp_dim=512, num_classes=10
        )
    return networks.build(model, 3, 10, 32, random=True)


def optimizer_of(net, model, lr):
    plain = [p for n, p in net.named_parameters() if p.ndim < 2 or n in EMBEDDINGS]
    layers = [p for p in net.parameters() if not any(p is q for q in plain)]
    groups = lambda decay: [{"params": layers, "weight_decay": decay}, {"params": plain, "weight_decay": 0.0}]
    if model == "ViT-32px":
        return torch.optim.AdamW(groups(0.05), lr=lr)
    return torch.optim.SGD(groups(5e-4), lr=lr, momentum=0.9, nesterov=True)


def images(folder, device):
    """All images of a folder, [N, 3, 32, 32] of bytes, and their labels."""
    pairs = [(pil_to_tensor(image), label) for image, label in torchvision.datasets.ImageFolder(folder)]
    pixels, labels = zip(*pairs)
    return torch.stack(pixels).to(device), torch.tensor(labels, device=device)


def cut(pixels, draws):
    """Each image cut anew out of itself with two black pixels around it, and flipped by half."""
    n = len(pixels)
    top, left = torch.randint(5, (2, n), generator=draws)
    rows, columns = top[:, None] + torch.arange(32), left[:, None] + torch.arange(32)
    columns = torch.where(torch.rand(n, 1, generator=draws) < 0.5, columns, columns.flip(1)).to(pixels.device)
    rows, every = rows.to(pixels.device), torch.arange(n, device=pixels.device)
    padded = nn.functional.pad(pixels, (2, 2, 2, 2)).permute(0, 2, 3, 1)
    return padded[every[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def normalised(pixels):
    of = lambda numbers: torch.tensor(numbers, device=pixels.device).view(3, 1, 1)
    x = (pixels.float() / 255 - of((0.4914, 0.4822, 0.4465))) / of((0.2470, 0.2435, 0.2616))
    return x.contiguous(memory_format=torch.channels_last)


def kept(state, **parts):
    """Writes the state, whole or not at all."""
    torch.save(parts, f"{state}.new")
    os.replace(f"{state}.new", state)


def main(folder, model, precision, seed="1", state=None):
    seed, amp = int(seed), {"fp32": False, "bf16": True}[precision]
    torch.manual_seed(seed)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    epochs, lr, batch = RECIPES[model]
    net = network(model).to(device, memory_format=torch.channels_last)
    train, labels = images(f"{folder}/train", device)
    optimizer, criterion = optimizer_of(net, model, lr), nn.CrossEntropyLoss()
    warmup = len(train) // batch
    total = epochs * warmup
    warm = torch.optim.lr_scheduler.LinearLR(optimizer, 1e-6, 1.0, warmup)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total - warmup)
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [warm, cosine], [warmup])
    parts = {"net": net, "optimizer": optimizer, "schedule": schedule}
    step, losses, run = 0, [], ["torchvision's own", model, precision, seed, len(train), str(torch.__version__), device.type]
    if state and os.path.exists(state):
        found = torch.load(state, map_location=device)
        if found["run"] != run:
            sys.exit(f"{state} is of another run: {found['run']}, and this is {run}")
        for name, part in parts.items():
            part.load_state_dict(found[name])
        step, losses = found["step"], found["losses"]
    net.train()
    begun, first = time.perf_counter(), step
    while step < total:
        epoch, done = divmod(step, warmup)
        if done == 0 or step == first:
            order = torch.randperm(len(train), generator=torch.Generator().manual_seed(1000 * seed + epoch))
        chosen = order[done * batch : (done + 1) * batch].to(device)
        x = normalised(cut(train[chosen], torch.Generator().manual_seed(1_000_000 * (seed + 1) + step)))
        with torch.autocast(device.type, torch.bfloat16, enabled=amp):
            loss = criterion(net(x), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        if model == "ViT-32px":
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.detach())
        step += 1
        if step % warmup == 0:
            mean = torch.stack(losses).mean().item()
            ips = batch * (step - first) / (time.perf_counter() - begun)
            print(json.dumps({"epoch": epoch, "loss": mean, "ips": ips}), flush=True)
            losses, begun, first = [], time.perf_counter(), step
        if state and step % 100 == 0:
            kept(state, run=run, step=step, losses=losses, **{n: p.state_dict() for n, p in parts.items()})
    net.eval()
    val, labels = images(f"{folder}/val", device)
    hits = 0
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=amp):
        for x, wanted in zip(val.split(250), labels.split(250)):
            hits += (net(normalised(x)).argmax(1) == wanted).sum().item()
    told = {"network": model, "precision": precision, "seed": seed, "device": device.type, "torchvision": torchvision.__version__}
    print(json.dumps(told | {"top1": 100 * hits / len(val)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
