"""Writes the state of a ResNet for 1000 classes, as PyTorch initialises it, to a .safetensors file under torchvision's names.

usage: save_resnet.py DEPTH FILE
"""

import sys

import torch
from resnet import build
from safetensors_io import save

torch.manual_seed(1)
depth, path = sys.argv[1:]
model = build(f"ResNet{depth}", 3, 1000)
save(path, {name: t.numpy() for name, t in model.state_dict().items() if not name.endswith("num_batches_tracked")})
