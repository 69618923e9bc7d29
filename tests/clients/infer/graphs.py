"""Small ONNX models whose outputs a reader can compute."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT
LABELS = ("low", "middle", "high")


def scaled(path: Path, factor: float = 2.0, labels: bool = True) -> Path:
    """Write y = factor · x for x (B, 3), float32; raw samples are uint8, divided by 255."""
    facts = {"fedlearn.labels": json.dumps(LABELS)} if labels else {}
    if labels:
        steps = {"dtype": "uint8", "cast": "float32", "divide": 255}
        facts["fedlearn.preprocessing"] = json.dumps(steps)
    nodes = [helper.make_node("Mul", ["x", "factor"], ["y"])]
    values = [numpy_helper.from_array(np.array(factor, np.float32), "factor")]
    x = helper.make_tensor_value_info("x", FLOAT, ["batch", 3])
    y = helper.make_tensor_value_info("y", FLOAT, ["batch", 3])
    return _write(path, nodes, [x], [y], values, facts)


def two_inputs(path: Path) -> Path:
    """Write total = a + b and index = the place of b's row in a table of two rows.

    a (B, 2) float32, b (B,) int64, which must be 0 or 1; total (B, 2), rows (B, 2).
    """
    table = np.array([[10, 20], [30, 40]], np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "b"], ["rows"]),
        helper.make_node("Add", ["a", "rows"], ["total"]),
    ]
    values = [numpy_helper.from_array(table, "table")]
    a = helper.make_tensor_value_info("a", FLOAT, ["batch", 2])
    b = helper.make_tensor_value_info("b", TensorProto.INT64, ["batch"])
    outputs = [
        helper.make_tensor_value_info(name, FLOAT, ["batch", 2])
        for name in ("total", "rows")
    ]
    return _write(path, nodes, [a, b], outputs, values, {})


def lengths(path: Path) -> Path:
    """Write y = the mean over T of x (B, T, 2): samples of any length."""
    node = helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=0)
    values = [numpy_helper.from_array(np.array([1]), "axes")]
    x = helper.make_tensor_value_info("x", FLOAT, ["batch", "time", 2])
    y = helper.make_tensor_value_info("y", FLOAT, ["batch", 2])
    return _write(path, [node], [x], [y], values, {})


def fixed(path: Path) -> Path:
    """Write y = x · x for x (1, 2): one sample at a time."""
    node = helper.make_node("Mul", ["x", "x"], ["y"])
    x = helper.make_tensor_value_info("x", FLOAT, [1, 2])
    y = helper.make_tensor_value_info("y", FLOAT, [1, 2])
    return _write(path, [node], [x], [y], [], {})


def joined(path: Path) -> Path:
    """Write y = the sum over the batch of x (B, 2), though its shape says (B, 2)."""
    node = helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=1)
    values = [numpy_helper.from_array(np.array([0]), "axes")]
    x = helper.make_tensor_value_info("x", FLOAT, ["batch", 2])
    y = helper.make_tensor_value_info("y", FLOAT, ["batch", 2])
    return _write(path, [node], [x], [y], values, {})


def _write(path, nodes, inputs, outputs, values, facts) -> Path:
    graph = helper.make_graph(nodes, "small", inputs, outputs, values)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    # What ONNX Runtime 1.23, the last one for Python 3.10, reads.
    model.ir_version = 9
    helper.set_model_props(model, facts)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path
