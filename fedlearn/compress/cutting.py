"""A model cut in two after a layer: a head for one machine, and a tail for another one.

What crosses is one tensor. Of all places between the layer and the next one with weights
the cut takes the one where it is smallest, such as after a pooling: the idea of Kang et
al., "Neurosurgeon: Collaborative Intelligence Between the Cloud and Mobile Edge", ASPLOS
2017.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedlearn.errors import ConfigError, ModelError
from fedlearn.export.extras import required
from fedlearn.names import nearest
from fedlearn.package import runtime
from fedlearn.system import files

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

HEAD_FILE = "head.onnx"
TAIL_FILE = "tail.onnx"

# What stands first in a graph's names: "/conv1/Conv" is the operation of layer "conv1".
_SEPARATOR = "/"


@dataclass(frozen=True)
class Cut:
    """A graph in two.

    crossing: the tensor's name in the graph. crossing_shape: of one sample. crossing_bytes:
    of one sample.
    """

    head: ModelProto
    tail: ModelProto
    crossing: str
    crossing_shape: tuple[int, ...]
    crossing_bytes: int


def cut(path: Path, layer: str, sample: torch.Tensor) -> Cut:
    """Return an ONNX file's graph, cut in two after a layer.

    layer: its name in the model, such as "conv1". sample: (1, …) inputs, which tell how
    large tensors are. Raises ConfigError for a layer that the graph lacks, and ModelError
    where more than one tensor crosses at every place.
    """
    onnx = required("onnx", "compress", "cutting")
    model: ModelProto = onnx.load(str(path))
    nodes = list(model.graph.node)
    places = places_after(nodes, layer)
    constants = _constants(model)
    crossings = {}
    for place in places:
        names = _crossing(model, nodes, place, constants)
        if len(names) == 1:
            crossings[place] = names[0]
    if not crossings:
        raise ModelError(
            f"the model cannot be cut after '{layer}': several tensors pass it by; name a "
            "layer where all paths meet, such as the last one of a residual block"
        )
    values = _values(path, model, sorted(set(crossings.values())), sample)
    place = min(crossings, key=lambda place: (values[crossings[place]].nbytes, place))
    value = values[crossings[place]]
    head, tail = _split(model, nodes, place, crossings[place], value, constants)
    return Cut(head, tail, crossings[place], value.shape[1:], value.nbytes)


def write(parts: Cut, folder: Path) -> None:
    """Write `HEAD_FILE` and `TAIL_FILE`, each with its weights. Raises OSError."""
    files.make_folder(folder)
    for name, part in ((HEAD_FILE, parts.head), (TAIL_FILE, parts.tail)):
        files.replace(folder / name, part.SerializeToString(deterministic=True))


def places_after(nodes: list[NodeProto], layer: str) -> range:
    """Return the numbers of nodes that a head may end with: the layer's last, to the next's.

    Raises ConfigError for a layer that the graph lacks, and for its last one.
    """
    inside = [place for place, node in enumerate(nodes) if _is_of(node, layer)]
    if not inside:
        layers = sorted({_layer_of(node) for node in nodes} - {""})
        raise ConfigError(
            f"--cut {layer}: the model has no such layer.{nearest(layer, layers)} "
            f"Known: {', '.join(layers)}"
        )
    end = inside[-1] + 1
    # Operations between layers, such as a pooling, may make less of the layer's output.
    while end < len(nodes) and not _layer_of(nodes[end]):
        end += 1
    # A tail without an operation is none.
    places = range(inside[-1], min(end, len(nodes) - 1))
    if not places:
        raise ConfigError(
            f"--cut {layer}: the last layer, after which nothing is left for a tail; name "
            "an earlier one"
        )
    return places


def layers(nodes: list[NodeProto]) -> list[str]:
    """Return the names of a graph's layers, in the order in which they are computed."""
    names = [_layer_of(node) for node in nodes]
    return list(dict.fromkeys(name for name in names if name))


def _layer_of(node: NodeProto) -> str:
    """Return the name of the layer that an operation is of; "": it stands between layers."""
    scopes = node.name.strip(_SEPARATOR).split(_SEPARATOR)[:-1]
    name = ""
    for scope in scopes:
        # A scope repeats what it stands in: /stages/stages.0/conv1 is stages.0.conv1.
        before, _, last = name.rpartition(".")
        outer = before if scope.startswith(f"{last}.") else name
        name = f"{outer}.{scope}" if outer else scope
    return name


def _is_of(node: NodeProto, layer: str) -> bool:
    name = _layer_of(node)
    return name == layer or name.startswith(f"{layer}.")


def _constants(model: ModelProto) -> set[str]:
    """Return the names of values that follow from no input: both parts can have them."""
    names = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        if all(name in names or not name for name in node.input):
            names.update(node.output)
    return names


def _crossing(
    model: ModelProto, nodes: list[NodeProto], place: int, constants: set[str]
) -> list[str]:
    """Return what a tail that begins after a place needs of the head, or of its input."""
    later = nodes[place + 1 :]
    own_names = {name for node in later for name in node.output}
    needed = {name for node in later for name in node.input if name}
    needed |= {output.name for output in model.graph.output}
    return sorted(needed - own_names - constants)


def _values(
    path: Path, model: ModelProto, names: list[str], sample: torch.Tensor
) -> dict[str, NDArray[np.generic]]:
    """Return the values of some tensors of a graph for one sample, by name."""
    from onnx import helper

    onnxruntime = runtime.load()

    # A graph with those tensors as further outputs, beside the file of its weights.
    shown = type(model)()
    shown.CopyFrom(model)
    outputs = {output.name for output in shown.graph.output}
    for name in names:
        if name not in outputs:
            shown.graph.output.append(helper.make_empty_tensor_value_info(name))
    options = runtime.options(onnxruntime)
    running = onnxruntime.InferenceSession(
        shown.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    arrays = running.run(names, {shown.graph.input[0].name: sample.numpy()})
    return dict(zip(names, arrays, strict=True))


def _split(
    model: ModelProto,
    nodes: list[NodeProto],
    place: int,
    crossing: str,
    value: NDArray[np.generic],
    constants: set[str],
) -> tuple[ModelProto, ModelProto]:
    """Return head and tail: nodes up to a place and after it."""
    from onnx import helper

    element = helper.np_dtype_to_tensor_dtype(value.dtype)
    shape: list[Any] = ["batch", *value.shape[1:]]
    # The graph knows which axes are free; a text's second one is.
    free = model.graph.input[0].type.tensor_type.shape.dim
    if len(free) > 1 and free[1].dim_param and len(shape) > 1:
        shape[1] = free[1].dim_param
    info = helper.make_tensor_value_info(crossing, element, shape)
    head = _part(model, nodes[: place + 1], [*model.graph.input], [info])
    # What follows from no input is computed in both parts, where each needs it.
    shared = [node for node in nodes[: place + 1] if set(node.output) <= constants]
    later = [*shared, *nodes[place + 1 :]]
    tail = _part(model, later, [info], [*model.graph.output])
    return head, tail


def _part(
    model: ModelProto, nodes: list[NodeProto], inputs: list[Any], outputs: list[Any]
) -> ModelProto:
    """Return a graph of some nodes, with those that its outputs need and their weights."""
    from onnx import helper

    needed = {output.name for output in outputs}
    useful: list[NodeProto] = []
    # Backwards, so that what an operation needs is known before its turn.
    for node in reversed(nodes):
        if needed & set(node.output):
            useful.insert(0, node)
            needed |= set(node.input)
    weights = [tensor for tensor in model.graph.initializer if tensor.name in needed]
    graph = helper.make_graph(useful, model.graph.name, inputs, outputs, weights)
    part = helper.make_model(
        graph, opset_imports=model.opset_import, ir_version=model.ir_version
    )
    part.producer_name = model.producer_name
    part.producer_version = model.producer_version
    part.metadata_props.extend(model.metadata_props)
    return part
