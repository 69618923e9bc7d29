"""Small releases, made by hand: three scores of six numbers, y = x W, for any counter."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from fedlearn.exchange.releases import ReleaseId
from fedlearn.package import content, difference, golden
from fedlearn.package.content import Package
from fedlearn.package.manifest import Manifest
from fedlearn.package.parts import (
    GRAPH_FILE,
    WEIGHTS_FILE,
    Delta,
    Health,
    ListedTensor,
    Origin,
    Port,
    Preprocessing,
    Support,
    delta_file,
)

NAME = "small"
OPSET = 17
SAMPLES = np.arange(240, dtype=np.uint8).reshape(40, 6)


def weights(counter: int) -> Any:
    return np.arange(18, dtype=np.float32).reshape(6, 3) / 8 + np.float32(counter)


def graph(shape: tuple[int, ...] = (6, 3)) -> bytes:
    """Return y = x W, whose W lies in weights.bin."""
    outside = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=shape)
    outside.data_location = TensorProto.EXTERNAL
    place = {"location": WEIGHTS_FILE, "offset": "0", "length": str(4 * prod(shape))}
    for key, value in place.items():
        outside.external_data.add(key=key, value=value)
    body = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        NAME,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", shape[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", shape[1]])],
        [outside],
    )
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(body, opset_imports=opsets, ir_version=8)
    return model.SerializeToString()


def files(w: Any, is_golden: bool = True) -> dict[str, bytes]:
    """Return a release's files; is_golden: its golden outputs are the graph's."""
    samples = np.resize(SAMPLES, (40, len(w)))
    scores = (samples.astype(np.float32) / 255) @ w
    outputs = scores[:16] if is_golden else scores[:16] + 1
    return {
        GRAPH_FILE: graph(w.shape),
        WEIGHTS_FILE: w.tobytes(),
        **golden.golden(samples, scores, outputs).files(),
    }


def write(folder: Path, counter: int, is_golden: bool = True) -> Package:
    """Write a small release to a new folder."""
    return _written(
        folder, counter, weights(counter), files(weights(counter), is_golden)
    )


def write_wide(
    folder: Path,
    counter: int,
    w: Any,
    more: dict[str, bytes] | None = None,
    **changes: Any,
) -> Package:
    """Write a release of other weights; more: differences, as changes of fields list them."""
    return _written(folder, counter, w, files(w), more or {}, **changes)


def write_pair(
    folder: Path, shape: tuple[int, int] = (64, 48)
) -> tuple[Package, Package]:
    """Write two releases, the second with a difference that leads to it from the first."""
    draw = np.random.default_rng(0)
    first = draw.normal(size=shape).astype(np.float32)
    second = first + draw.normal(scale=0.01, size=shape).astype(np.float32)
    payload, arrived = difference.encode(first.ravel(), second.ravel(), [shape])
    one = write_wide(folder / "one", 1, first)
    base = one.manifest.weights_sha256
    file = delta_file(base)
    listed = content.listed(payload)
    delta = Delta(base, file, listed.sha256, listed.bytes)
    more = {file: payload}
    two = write_wide(folder / "two", 2, arrived.reshape(shape), more, deltas=(delta,))
    return one, two


def _written(
    folder: Path,
    counter: int,
    w: Any,
    release: dict[str, bytes],
    more: dict[str, bytes] | None = None,
    **changes: Any,
) -> Package:
    fields: dict[str, Any] = {
        "name": NAME,
        "counter": counter,
        "targets": (Support("onnxruntime", OPSET),),
        "files": {path: content.listed(data) for path, data in release.items()},
        "tensors": (ListedTensor("w", w.shape),),
        "input": Port("x", (None, w.shape[0]), "float32"),
        "output": Port("y", (None, w.shape[1]), "float32"),
        "preprocessing": Preprocessing("uint8", "float32", 255.0),
        "labels": tuple(f"class {n}" for n in range(w.shape[1])),
        "run": Origin("my:net", "0" * 64, "1" * 64, "raw32"),
        "health": Health(errors=0.01, p99_ms=200.0, drift=0.25),
    }
    manifest = Manifest(**{**fields, **changes})
    return content.write(folder, manifest, {**release, **(more or {})})


def name_of(package: Package) -> ReleaseId:
    manifest = package.manifest
    return ReleaseId(manifest.name, manifest.counter, package.sha256)
