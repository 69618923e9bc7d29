"""Dense layers as one operation each, so that ONNX Runtime's quantiser finds their weights.

torch's exporter writes a layer with a bias as a Gemm, which turns its weight itself. One without
a bias becomes a Transpose of the weight and a MatMul: there the quantiser sees no weight, but two
values, and leaves both in floats.

Legend: B batch, K inputs, N outputs of a dense layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto


def join(model: ModelProto) -> None:
    """Make a Gemm of each product with a turned weight, in place.

    model: with the shapes of its values, as ``onnx.shape_inference`` adds them. A product of
    vectors in more than two axes is one of (B · …, K), where the axes between are known.
    """
    graph = model.graph
    weights = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    shapes = _shapes(graph)
    makers = {node.output[0]: node for node in graph.node}
    nodes: list[NodeProto] = []
    for node in graph.node:
        weight = _turned_weight(node, makers)
        inputs = shapes.get(node.input[0], ()) if weight in weights else ()
        if len(inputs) < 2 or None in inputs[1:-1]:
            nodes.append(node)
            continue
        nodes += _gemm(node, weight, inputs[1:-1], weights[weight])
    # A turned weight that nobody reads any more.
    used = {value for node in nodes for value in node.input}
    used |= {output.name for output in graph.output}
    nodes = [node for node in nodes if not _turns(node) or node.output[0] in used]
    del graph.node[:]
    graph.node.extend(nodes)


def _turned_weight(node: NodeProto, makers: Mapping[str, NodeProto]) -> str:
    """Return what a product's second factor is before it is turned; "": it is no such one."""
    turn = makers.get(node.input[1]) if node.op_type == "MatMul" else None
    return "" if turn is None or not _turns(turn) else turn.input[0]


def _turns(node: NodeProto) -> bool:
    """Tell whether a node swaps the two axes of a matrix."""
    if node.op_type != "Transpose":
        return False
    return [list(attribute.ints) for attribute in node.attribute] == [[1, 0]]


def _gemm(
    node: NodeProto, weight: str, inner: tuple[int | None, ...], shape: tuple[int, ...]
) -> list[NodeProto]:
    """Return what takes a product's place.

    inner: the axes of its input but the first and the last. shape: of the weight, (N, K).
    """
    from onnx import helper

    output = node.output[0]
    if not inner:
        names = [node.input[0], weight]
        return [helper.make_node("Gemm", names, [output], node.name, transB=1)]
    flat = f"{output}_flat"
    product = f"{output}_product"
    before = [-1, shape[1]]
    after = [-1, *inner, shape[0]]
    return [
        *_reshaped(node.input[0], flat, before),
        helper.make_node("Gemm", [flat, weight], [product], node.name, transB=1),
        *_reshaped(product, output, after),
    ]


def _reshaped(value: str, name: str, shape: Sequence[int | None]) -> list[NodeProto]:
    from onnx import helper, numpy_helper

    axes = numpy_helper.from_array(np.array(shape, np.int64))
    return [
        helper.make_node("Constant", [], [f"{name}_shape"], value=axes),
        helper.make_node(
            "Reshape", [value, f"{name}_shape"], [name], f"{name}_reshape"
        ),
    ]


def _shapes(graph: GraphProto) -> dict[str, tuple[int | None, ...]]:
    """Return the shapes of a graph's values, None for an axis of any length."""
    shapes = {}
    for value in (*graph.input, *graph.value_info):
        dims = value.type.tensor_type.shape.dim
        shapes[value.name] = tuple(
            dim.dim_value if dim.HasField("dim_value") else None for dim in dims
        )
    return shapes
