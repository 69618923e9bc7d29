"""Run by another Python, with numpy and onnxruntime alone: scores exported models in a folder.

``python other_runtime.py FOLDER``: the folder holds folders with a model each. It leaves the
scores in scores.npz, and what it rebuilt of each int8 file as rebuilt.bin.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime


def scores(graph, x):
    session = onnxruntime.InferenceSession(
        str(graph), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"input": x})[0]


def main(folder):
    from fedlearn.package.int8 import file_bytes, rebuild

    for model in sorted(Path(folder).iterdir()):
        x = np.load(model / "inputs.npy")
        tensors = dict(np.load(model / "tensors.npz"))
        recipe = json.loads((model / "recipe.json").read_text())
        rebuilt = rebuild({name: tensors[name] for name in recipe["order"]}, recipe)
        (model / "rebuilt.bin").write_bytes(file_bytes(rebuilt))
        np.savez(
            model / "scores.npz",
            plain=scores(model / "graph.onnx", x),
            int8=scores(model / "int8.onnx", x),
        )
    heavy = {"torch", "onnx", "flwr", "pydantic"} & set(sys.modules)
    print(onnxruntime.__version__, *sys.version_info[:2], sorted(heavy))


if __name__ == "__main__":
    main(sys.argv[1])
