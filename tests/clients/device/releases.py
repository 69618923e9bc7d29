"""Small releases, made by hand: three scores of six numbers, y = x W, for any counter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from fedlearn.exchange.releases import ReleaseId
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

NAME = "small"
OPSET = 17
SAMPLES = np.arange(240, dtype=np.uint8).reshape(40, 6)


def weights(counter: int) -> Any:
    return np.arange(18, dtype=np.float32).reshape(6, 3) / 8 + np.float32(counter)


def graph() -> bytes:
    """Return y = x W, whose W lies in weights.bin."""
    outside = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=(6, 3))
    outside.data_location = TensorProto.EXTERNAL
    for key, value in (("location", WEIGHTS_FILE), ("offset", "0"), ("length", "72")):
        outside.external_data.add(key=key, value=value)
    made = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        NAME,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [outside],
    )
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(made, opset_imports=opsets, ir_version=8)
    return model.SerializeToString()


def files(counter: int, is_golden: bool = True) -> dict[str, bytes]:
    """Return a release's files; is_golden: its golden outputs are the graph's."""
    w = weights(counter)
    scores = (SAMPLES.astype(np.float32) / 255) @ w
    outputs = scores[:16] if is_golden else scores[:16] + 1
    return {
        GRAPH_FILE: graph(),
        WEIGHTS_FILE: w.tobytes(),
        GOLDEN_FILE: golden.golden(SAMPLES, scores, outputs).to_bytes(),
    }


def write(
    folder: Path, counter: int, is_golden: bool = True, **changes: Any
) -> Package:
    """Write a release to a new folder; changes: of its manifest's fields."""
    release = files(counter, is_golden)
    fields: dict[str, Any] = {
        "name": NAME,
        "counter": counter,
        "targets": (Support("onnxruntime", OPSET),),
        "files": {path: content.listed(data) for path, data in release.items()},
        "tensors": (ListedTensor("w", (6, 3)),),
        "input": Port("x", (None, 6), "float32"),
        "output": Port("y", (None, 3), "float32"),
        "preprocessing": Preprocessing("uint8", "float32", 255.0),
        "labels": ("low", "mid", "high"),
        "run": Origin("my:net", "0" * 64, "1" * 64, "raw32"),
        "health": Health(errors=0.01, p99_ms=200.0, drift=0.25),
    }
    return content.write(folder, Manifest(**{**fields, **changes}), release)


def name_of(package: Package) -> ReleaseId:
    manifest = package.manifest
    return ReleaseId(manifest.name, manifest.counter, package.sha256)
