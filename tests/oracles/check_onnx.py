"""Checks ONNX files with the standard's own checker, shapes included.

    check_onnx.py FILE ...    prints one line a file: name, opset, operators with their counts
"""

import collections
import sys

import onnx


def main(paths):
    for path in paths:
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
        counts = collections.Counter(n.op_type for n in model.graph.node)
        opset = model.opset_import[0].version
        print(path.rsplit("/", 1)[-1], opset, " ".join(f"{k}={v}" for k, v in sorted(counts.items())))


if __name__ == "__main__":
    main(sys.argv[1:])
