"""BatchNorm multiplied into the convolution before it: fewer operations, the same scores.

An int8 model needs it, because a normalisation apart would have to run in floats. Weights
that a run is to start from are not folded: training needs the statistics apart.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fedlearn.errors import ModelError
from fedlearn.export.extras import required
from fedlearn.export.onnx import Exported, with_values
from fedlearn.package.int8 import folded

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto


def fold(exported: Exported) -> Exported:
    """Return a model without its BatchNorms, as far as each follows a convolution alone.

    ``folds`` says which tensors became which, so that a device can do the same. Raises
    ModelError for a model that is folded already.
    """
    if exported.folds:
        raise ModelError("this graph is folded already; export the model again")
    onnx = required("onnx", "export", "ONNX")
    model: ModelProto = onnx.load_from_string(exported.graph)
    folds = []
    for normal in list(model.graph.node):
        conv = _conv_before(model.graph, normal)
        if conv is not None:
            folds.append(_join(model.graph, conv, normal))
    tensors = folded(exported.tensors, folds)
    unused = {**exported.unused}
    for name, tensor in exported.tensors.items():
        if name not in tensors:
            unused[name] = tensor
    return replace(
        exported,
        graph=with_values(model, tensors),
        tensors=tensors,
        unused=unused,
        folds=tuple(folds),
    )


def _conv_before(graph: GraphProto, node: NodeProto) -> NodeProto | None:
    """Return the convolution whose output a BatchNorm alone reads, if there is one."""
    if node.op_type != "BatchNormalization":
        return None
    source = node.input[0]
    readers = [step for step in graph.node if source in step.input]
    makers = [step for step in graph.node if source in step.output]
    is_output = any(source == output.name for output in graph.output)
    if len(readers) != 1 or is_output or not makers or makers[0].op_type != "Conv":
        return None
    # The weights of two convolutions may be one tensor, which one BatchNorm must not change.
    weight = makers[0].input[1]
    users = [step for step in graph.node if weight in step.input]
    return makers[0] if len(users) == 1 else None


def _join(graph: GraphProto, conv: NodeProto, normal: NodeProto) -> dict[str, Any]:
    """Make one convolution of two nodes, in place; return what becomes of their tensors."""
    weight = conv.input[1]
    fold: dict[str, Any] = {"weight": weight, "epsilon": _epsilon(normal)}
    names = ("gamma", "beta", "mean", "variance")
    fold |= dict(zip(names, normal.input[1:5], strict=True))
    if len(conv.input) > 2:
        fold["source_bias"] = conv.input[2]
        fold["bias"] = conv.input[2]
    else:
        fold["bias"] = f"{weight.removesuffix('.weight')}.bias"
        conv.input.append(fold["bias"])
    conv.output[0] = normal.output[0]
    graph.node.remove(normal)
    return fold


def _epsilon(normal: NodeProto) -> float:
    """Return what a BatchNorm adds to the variance, as its graph has it."""
    values = [item.f for item in normal.attribute if item.name == "epsilon"]
    # ONNX's own default.
    return values[0] if values else 1e-5
