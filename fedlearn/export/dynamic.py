"""A graph's dense and LSTM layers on int8 weights, with activations rounded in each call.

The graph still holds the state's own tensors, now int8: what it does with them before they
are used, such as the order of an LSTM's gates, it does to whole numbers as well. So each
int8 tensor is one float tensor rounded, and a device can make it.

Legend: N outputs, K inputs of a dense layer, H hidden units.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedlearn.package.int8 import rounded

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

# The largest whole number of a weight: as far from 0 on both sides.
LARGEST = 127

QUANTISED = "_quantized"
SCALE = "_scale"

# ONNX Runtime's own operations, which every build of it has.
DOMAIN = "com.microsoft"

# What moves values about, and works on whole numbers as well.
MOVES = ("Concat", "Identity", "Slice", "Transpose", "Unsqueeze")


@dataclass
class _Graph:
    """A graph that is being changed: its nodes in order, and the tensors of its weights."""

    nodes: list[NodeProto]
    tensors: dict[str, NDArray[Any]]
    floats: Mapping[str, NDArray[np.float32]]
    weights: list[str] = field(default_factory=list)

    def maker(self, value: str) -> NodeProto | None:
        """Return the node that makes a value."""
        makers = [node for node in self.nodes if value in node.output]
        return makers[0] if makers else None

    def roots(self, value: str) -> set[str]:
        """Return the weights that a value is made of by moves alone; none where it is not."""
        if value in self.floats:
            return {value}
        node = self.maker(value)
        if node is None or node.op_type not in MOVES:
            return set()
        roots: set[str] = set()
        for source in node.input[: None if node.op_type == "Concat" else 1]:
            roots |= self.roots(source)
        return roots

    def readers(self, value: str) -> Iterator[NodeProto]:
        """Yield the nodes that use a value, through moves."""
        for node in self.nodes:
            if value not in node.input:
                continue
            if node.op_type in MOVES:
                yield from self.readers(node.output[0])
            else:
                yield node


def quantise(model: ModelProto, floats: Mapping[str, NDArray[np.float32]]) -> list[str]:
    """Make a graph's dense and LSTM layers int8, in place; return the names of their weights.

    floats: the graph's float initialisers, which are replaced by tensors inside it.
    """
    from onnx import TensorProto, helper, numpy_helper

    graph = _Graph(list(model.graph.node), dict(floats), floats)
    for node in list(graph.nodes):
        if node.op_type == "LSTM":
            _lstm(graph, node)
        elif node.op_type in ("Gemm", "MatMul"):
            _dense(graph, node)
    del model.graph.node[:]
    model.graph.node.extend(graph.nodes)
    constants = [
        tensor
        for tensor in model.graph.initializer
        if tensor.data_location != TensorProto.EXTERNAL
    ]
    del model.graph.initializer[:]
    for name, tensor in graph.tensors.items():
        model.graph.initializer.append(numpy_helper.from_array(tensor, name))
    model.graph.initializer.extend(constants)
    if any(node.domain == DOMAIN for node in graph.nodes):
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return graph.weights


def _weight(graph: _Graph, value: str, node: NodeProto) -> str | None:
    """Return the one weight that a value is made of, if nothing but the node uses it."""
    roots = graph.roots(value)
    if len(roots) != 1:
        return None
    weight = roots.pop()
    # An embedding that is the output layer, too, is looked up in floats.
    is_shared = any(reader is not node for reader in graph.readers(weight))
    return None if is_shared else weight


def _round(graph: _Graph, weight: str, axis: int | None) -> None:
    """Replace a weight by whole numbers and their scale, one for each index of an axis."""
    tensor = graph.floats[weight]
    axes: tuple[int, ...] | None = None
    if axis is not None:
        axes = tuple(place for place in range(tensor.ndim) if place != axis)
    largest = np.asarray(np.abs(tensor).max(axis=axes), np.float64)
    scale = np.atleast_1d((largest / LARGEST).astype(np.float32))
    # Weights that are all 0 stay 0 under any scale.
    scale[scale < np.finfo(np.float32).tiny] = 1.0
    replaced = {}
    for name, value in graph.tensors.items():
        if name != weight:
            replaced[name] = value
            continue
        replaced[f"{weight}{QUANTISED}"] = rounded(tensor, scale, axis, "int8")
        replaced[f"{weight}{SCALE}"] = scale
    graph.tensors = replaced
    graph.weights.append(weight)
    for node in graph.nodes:
        for position, source in enumerate(node.input):
            if source == weight:
                node.input[position] = f"{weight}{QUANTISED}"


def _place(graph: _Graph, node: NodeProto, nodes: list[NodeProto]) -> None:
    """Put nodes in the place of one."""
    # By identity: nodes of equal contents would be equal.
    position = next(i for i, present in enumerate(graph.nodes) if present is node)
    graph.nodes[position : position + 1] = nodes


def _dense(graph: _Graph, node: NodeProto) -> None:
    """Make one dense layer int8, with a scale for each output, where its weight allows it."""
    value = node.input[1]
    weight = _weight(graph, value, node)
    if weight is None or graph.floats[weight].ndim != 2 or not _is_plain(node):
        return
    # Weights are (N, K), turned by Gemm itself or by a node before it.
    is_turned = node.op_type == "Gemm" and _attribute(node, "transB", 0) == 1
    before = graph.maker(value)
    is_turned_before = before is not None and before.op_type == "Transpose"
    _round(graph, weight, axis=1 if is_turned == is_turned_before else 0)
    nodes = _integer_product(node, f"{weight}{SCALE}", is_turned)
    for new_node in nodes:
        new_node.name = f"{new_node.output[0]}_{new_node.op_type}"
    _place(graph, node, nodes)


def _integer_product(node: NodeProto, scale: str, is_turned: bool) -> list[NodeProto]:
    """Return the nodes of a product with an int8 matrix, as ONNX Runtime joins them."""
    from onnx import TensorProto, helper

    output = node.output[0]
    matrix = node.input[1]
    nodes = []
    if is_turned:
        matrix = f"{output}_matrix"
        nodes.append(
            helper.make_node("Transpose", [node.input[1]], [matrix], perm=[1, 0])
        )
    rounded_input, step, zero = (
        f"{output}_{part}" for part in ("bytes", "step", "zero")
    )
    whole, floats, factor = (
        f"{output}_{part}" for part in ("int32", "float", "factor")
    )
    has_bias = len(node.input) > 2
    product = f"{output}_product" if has_bias else output
    nodes += [
        helper.make_node(
            "DynamicQuantizeLinear", [node.input[0]], [rounded_input, step, zero]
        ),
        helper.make_node("MatMulInteger", [rounded_input, matrix, zero], [whole]),
        helper.make_node("Cast", [whole], [floats], to=TensorProto.FLOAT),
        helper.make_node("Mul", [step, scale], [factor]),
        helper.make_node("Mul", [floats, factor], [product]),
    ]
    if has_bias:
        nodes.append(helper.make_node("Add", [product, node.input[2]], [output]))
    return nodes


def _is_plain(node: NodeProto) -> bool:
    """Tell whether a product has no factor and no transposed input."""
    factors = (_attribute(node, "alpha", 1.0), _attribute(node, "beta", 1.0))
    return factors == (1.0, 1.0) and _attribute(node, "transA", 0) == 0


def _attribute(node: NodeProto, name: str, default: Any) -> Any:
    from onnx import helper

    for attribute in node.attribute:
        if attribute.name == name:
            return helper.get_attribute_value(attribute)
    return default


def _lstm(graph: _Graph, node: NodeProto) -> None:
    """Make one LSTM of one direction int8, with a scale for each of its two weights."""
    from onnx import helper

    inputs_to_hidden = _weight(graph, node.input[1], node)
    hidden_to_hidden = _weight(graph, node.input[2], node)
    is_forward = _attribute(node, "direction", b"forward") == b"forward"
    if inputs_to_hidden is None or hidden_to_hidden is None or not is_forward:
        return
    # All eight inputs of an LSTM, "" where it has none, then scales and zero points.
    inputs = [*node.input, *[""] * (8 - len(node.input))]
    nodes = []
    for position, weight in ((1, inputs_to_hidden), (2, hidden_to_hidden)):
        _round(graph, weight, axis=None)
        # (1, 4·H, K) → (1, K, 4·H), as the int8 one wants it.
        turned = f"{node.output[0]}_matrix{position}"
        source = node.input[position]
        nodes.append(
            helper.make_node("Transpose", [source], [turned], turned, perm=[0, 2, 1])
        )
        zero = f"{weight}_zero_point"
        graph.tensors[zero] = np.zeros(1, np.int8)
        inputs[position] = turned
        inputs += [f"{weight}{SCALE}", zero]
    lstm = helper.make_node("DynamicQuantizeLSTM", inputs, node.output, node.name)
    lstm.domain = DOMAIN
    lstm.attribute.extend(node.attribute)
    _place(graph, node, [*nodes, lstm])
