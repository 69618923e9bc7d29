"""A small package, made by hand: three scores of six numbers, y = x W + b."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from fedlearn.package import content, golden
from fedlearn.package.content import Package
from fedlearn.package.manifest import Manifest
from fedlearn.package.parts import (
    GOLDEN_FILE,
    GRAPH_FILE,
    WEIGHTS_FILE,
    Health,
    ListedTensor,
    Origin,
    Port,
    Preprocessing,
    Support,
)

W = np.arange(18, dtype=np.float32).reshape(6, 3) / 8
B = np.array([0.5, -1, 2], np.float32)
SAMPLES = np.arange(240, dtype=np.uint8).reshape(40, 6)
OPSET = 17


def outside(name, shape, offset, location=WEIGHTS_FILE, length=None):
    """Return a float32 initializer whose values lie in a file."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape)
    tensor.data_location = TensorProto.EXTERNAL
    size = 4 * int(np.prod(shape)) if length is None else length
    place = {"location": location, "offset": offset, "length": size}
    for key, value in place.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def nodes():
    return [
        helper.make_node("MatMul", ["x", "w"], ["xw"]),
        helper.make_node("Add", ["xw", "b"], ["y"]),
    ]


def model(graph_nodes=None, initializers=None):
    """Return the ModelProto of other nodes or initializers than the sound ones."""
    graph = helper.make_graph(
        graph_nodes or nodes(),
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        initializers or [outside("w", (6, 3), 0), outside("b", (3,), 72)],
    )
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def files(w=W):
    inputs = SAMPLES.astype(np.float32) / 255
    scores = inputs @ w + B
    return {
        GRAPH_FILE: model().SerializeToString(),
        WEIGHTS_FILE: w.tobytes() + B.tobytes(),
        GOLDEN_FILE: golden.golden(SAMPLES, scores, scores[:16]).to_bytes(),
    }


def manifest(content_files=None, **changes):
    """Return the manifest of some files; changes: of its fields."""
    listed = {
        path: content.listed(data) for path, data in (content_files or files()).items()
    }
    sound = Manifest(
        name="small",
        counter=3,
        targets=(Support("onnxruntime", OPSET),),
        files=listed,
        tensors=(ListedTensor("w", (6, 3)), ListedTensor("b", (3,))),
        input=Port("x", (None, 6), "float32"),
        output=Port("y", (None, 3), "float32"),
        preprocessing=Preprocessing("uint8", "float32", 255.0),
        labels=("low", "mid", "high"),
        run=Origin("my:net", "0" * 64, "1" * 64, "raw32"),
        health=Health(errors=0.01, p99_ms=20.0, drift=0.25),
    )
    return replace(sound, **changes)


def written(folder: Path, **changes) -> Package:
    """Write the package to a new folder."""
    return content.write(folder, manifest(**changes), files())


def sha256(folder: Path) -> dict[str, str]:
    """Return the hash of every file in a folder, by its path."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
    }
