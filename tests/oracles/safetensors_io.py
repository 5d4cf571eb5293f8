"""Reading and writing safetensors files of FP32 and INT64 tensors with the standard library and numpy."""

import json
import struct

import numpy

TYPES = {"F32": numpy.float32, "F64": numpy.float64, "I64": numpy.int64}


def load(path):
    with open(path, "rb") as f:
        (size,) = struct.unpack("<Q", f.read(8))
        header = json.loads(f.read(size))
        data = f.read()
    header.pop("__metadata__", None)
    return {
        name: numpy.frombuffer(data[slice(*t["data_offsets"])], TYPES[t["dtype"]]).reshape(t["shape"]).copy()
        for name, t in header.items()
    }


def save(path, tensors):
    names = {numpy.dtype(v): k for k, v in TYPES.items()}
    header, blobs, offset = {}, [], 0
    for name, value in tensors.items():
        value = numpy.ascontiguousarray(value)
        blob = value.tobytes()
        header[name] = {
            "dtype": names[value.dtype],
            "shape": list(value.shape),
            "data_offsets": [offset, offset + len(blob)],
        }
        blobs.append(blob)
        offset += len(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + b"".join(blobs))
