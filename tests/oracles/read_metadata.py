"""Classifies images with an exported file by what its metadata says, and by nothing else.

usage: read_metadata.py MODEL (PIXELS WIDTH HEIGHT)...    PIXELS: rows of 8-bit RGB

Prints the probabilities of all classes of every image as JSON.
"""

import json
import math
import sys

import numpy
import onnx
import onnxruntime
import torch


def half_away_from_zero(x):
    return math.floor(x + 0.5)


def prepare(pixels, p):
    assert p["color-order"] == "RGB" and p["layout"] == "NCHW" and p["dtype"] == "float32"
    assert p["resize-interpolation"] == "bilinear" and p["resize-antialias"] and p["crop"] == "center"
    height, width = pixels.shape[:2]
    short, crop = p["resize-short"], p["crop-size"]
    size = [half_away_from_zero(side * short / min(height, width)) for side in (height, width)]
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    image = torch.nn.functional.interpolate(image, size=size, mode="bilinear", antialias=True)
    image = image.round().clamp(0, 255)[0]
    top, left = (half_away_from_zero((side - crop) / 2) for side in size)
    image = image[:, top : top + crop, left : left + crop]
    mean, std = (torch.tensor(p[key])[:, None, None] for key in ("normalize-mean", "normalize-std"))
    image = (image * p["normalize-scale"] - mean) / std
    empty = torch.zeros(p["empty-channels"], crop, crop)
    return torch.cat([image, empty]).numpy()


def main():
    model, rest = sys.argv[1], sys.argv[2:]
    metadata = {e.key: e.value for e in onnx.load(model).metadata_props}
    preprocessing = json.loads(metadata["octrain.preprocessing"])
    session = onnxruntime.InferenceSession(model)
    told = []
    for path, width, height in zip(rest[::3], rest[1::3], rest[2::3]):
        pixels = numpy.fromfile(path, dtype=numpy.uint8).reshape(int(height), int(width), 3)
        batch = prepare(pixels, preprocessing)[None].astype(numpy.float32)
        (logits,) = session.run(None, {session.get_inputs()[0].name: batch})
        told.append(torch.softmax(torch.from_numpy(logits[0]).double(), 0).tolist())
    assert len(json.loads(metadata["octrain.classes"])) == len(told[0])
    print(json.dumps(told))


main()
