"""A trained model as an ONNX graph and its weights apart.

The graph's float initialisers are the state's own tensors, by their own names, and nothing
is folded into anything: weights of a later version fit into the same graph, and a run can
start from them. ONNX Runtime folds by itself when it loads a model.

Legend: B batch, T characters of a text, K classes.
"""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import fedlearn
from fedlearn.errors import ModelError, reason_of
from fedlearn.export import branches
from fedlearn.export.about import metadata
from fedlearn.export.extras import required
from fedlearn.runs.trained import Trained
from fedlearn.system import files

if TYPE_CHECKING:
    import torch
    from onnx import ModelProto, NodeProto

# ONNX Runtime 1.23, the last one for Python 3.10, reads up to 23. 18 is as new as all of
# torch's script exporter and ONNX Runtime's quantiser know.
OPSET = 18

INPUT = "input"
OUTPUT = "output"
GRAPH_FILE = "graph.onnx"
WEIGHTS_FILE = "weights.bin"


@dataclass(frozen=True)
class Exported:
    """An ONNX model: its graph, and the tensors that `WEIGHTS_FILE` is made of.

    graph: a serialised ``ModelProto`` whose float initialisers are external. tensors: those
    initialisers in the order of the file, which is the state's. unused: what the state has
    besides: counters, and floats that inference does without. input_shape, output_shape:
    with the names of free axes, for example ("batch", 1, 28, 28). input_dtype: "float32",
    or "int64" of text. metadata: as the graph has it. folds: what became of BatchNorms, as
    `fedlearn.package.int8` has it; none where nothing is folded. notes: what its user should
    know, a sentence each.
    """

    graph: bytes
    tensors: dict[str, NDArray[np.float32]]
    unused: dict[str, NDArray[np.generic]]
    input_shape: tuple[int | str, ...]
    output_shape: tuple[int | str, ...]
    input_dtype: str
    metadata: dict[str, str]
    folds: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
    input_name: str = INPUT
    output_name: str = OUTPUT
    opset: int = OPSET

    @property
    def weights(self) -> bytes:
        """Return the bytes of `WEIGHTS_FILE`: the tensors one after another, little-endian."""
        return weights_bytes(self.tensors)


def weights_bytes(tensors: Mapping[str, NDArray[Any]]) -> bytes:
    """Return tensors one after another, each in C order and little-endian, without gaps."""
    parts = []
    for tensor in tensors.values():
        little = tensor.dtype.newbyteorder("<")
        parts.append(np.ascontiguousarray(tensor, dtype=little).tobytes())
    return b"".join(parts)


def graph_of(trained: Trained) -> Exported:
    """Return a trained model as ONNX; its graph depends on the model's shapes alone.

    Raises UserError without the extra ``export``, and ModelError for a model that torch's
    exporter refuses, or whose forward goes other ways for other inputs.
    """
    notes = branches.check(trained, plain_module(trained), example(trained, 2))
    model = _traced(trained)
    _cast_identities(model)
    arrays = trained.layout.split(trained.state)
    tensors = _own_tensors(model, trained, arrays)
    # A forward that leaves torch in between gives a graph of constants.
    if not model.graph.input or not model.graph.output:
        raise ModelError(
            f"model '{trained.experiment.model.name}' cannot be exported to ONNX: its scores "
            "do not follow from its input by operations of torch alone"
        )
    props = metadata(trained)
    describe(model, props)
    used = {initializer.name for initializer in model.graph.initializer}
    unused = {name: array for name, array in arrays.items() if name not in used}
    make_external(model, tensors)
    return Exported(
        graph=model.SerializeToString(deterministic=True),
        tensors=tensors,
        unused=unused,
        input_shape=_shape_of(model.graph.input[0]),
        output_shape=_shape_of(model.graph.output[0]),
        input_dtype="int64" if trained.population.modality == "text" else "float32",
        metadata=props,
        notes=notes,
    )


def write(exported: Exported, folder: Path) -> None:
    """Write `GRAPH_FILE` and `WEIGHTS_FILE` into a folder, each replaced whole.

    The weights come first: a graph without them cannot be loaded. Raises OSError.
    """
    files.make_folder(folder)
    files.replace(folder / WEIGHTS_FILE, exported.weights)
    files.replace(folder / GRAPH_FILE, exported.graph)


def example(trained: Trained, batch: int) -> torch.Tensor:
    """Return an input (B, …) of zeros as the model takes it."""
    import torch

    is_text = trained.population.modality == "text"
    dtype = torch.int64 if is_text else torch.float32
    return torch.zeros((batch, *trained.population.input_shape), dtype=dtype)


def plain_module(trained: Trained) -> torch.nn.Module:
    """Return a copy of the module for exporters: float32, evaluating, in plain memory order.

    Exporters take channels-last weights for another operation (ExecuTorch), or copy them.
    """
    import torch

    module = copy.deepcopy(trained.module).cpu().float().eval()
    # torch's stubs lack this keyword alone.
    module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return module


def _traced(trained: Trained) -> ModelProto:
    """Return the graph as torch's exporter gives it, with other values than the weights'.

    The exporter joins tensors that are equal, such as the scales of normalisations that were
    never trained. With values of which no two are equal the graph depends on shapes alone.
    """
    import torch

    onnx = required("onnx", "export", "ONNX")
    name = trained.experiment.model.name
    stream = io.BytesIO()
    # The script exporter is the older one. It takes seconds, where the new one takes a minute
    # and names no weight as the state does.
    try:
        module = plain_module(trained)
        _set_apart(module)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module,
                (example(trained, 2),),
                # Its stubs lack streams alone.
                stream,  # type: ignore[arg-type]
                dynamo=False,
                do_constant_folding=False,
                # It evaluates already. Told to evaluate, the exporter would fold BatchNorm.
                training=torch.onnx.TrainingMode.PRESERVE,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_axes=_free_axes(trained),
            )
    # The module may be a user's, and the exporter has no error of its own for all it refuses.
    except Exception as error:
        raise ModelError(
            f"model '{name}' cannot be exported to ONNX: {reason_of(error)}"
        ) from error
    model: ModelProto = onnx.load_from_string(stream.getvalue())
    return model


def _cast_identities(model: ModelProto) -> None:
    """Make identity matrices of truth values from float ones, in place.

    ONNX Runtime has EyeLike for numbers alone; `torch.eye(…, dtype=bool)` asks for more.
    """
    from onnx import TensorProto, helper

    nodes = list(model.graph.node)
    flags = {node.output[0] for node in nodes if _is_of_flags(node)}
    del model.graph.node[:]
    for node in nodes:
        if node.op_type != "EyeLike" or node.input[0] not in flags:
            model.graph.node.append(node)
            continue
        numbers = f"{node.input[0]}_float"
        identity = f"{node.output[0]}_float"
        before = helper.make_node(
            "Cast", [node.input[0]], [numbers], numbers, to=TensorProto.FLOAT
        )
        eye = helper.make_node("EyeLike", [numbers], [identity], node.name)
        after = helper.make_node(
            "Cast", [identity], [node.output[0]], identity, to=TensorProto.BOOL
        )
        model.graph.node.extend([before, eye, after])


def _is_of_flags(node: NodeProto) -> bool:
    """Tell whether a node makes a matrix of truth values, all alike."""
    from onnx import TensorProto

    if node.op_type != "ConstantOfShape":
        return False
    is_flags: bool = node.attribute[0].t.data_type == TensorProto.BOOL
    return is_flags


def _set_apart(module: torch.nn.Module) -> None:
    """Fill a module's float tensors so that no two are equal, in place."""
    import torch

    with torch.no_grad():
        for position, tensor in enumerate(module.state_dict().values()):
            if tensor.is_floating_point():
                generator = torch.Generator().manual_seed(position)
                # Above 0, as a variance has to be.
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))


def _free_axes(trained: Trained) -> dict[str, dict[int, str]]:
    """Return the names of the axes of any length: the batch, and a text's characters."""
    axes = {0: "batch"}
    if trained.population.modality == "text":
        axes[1] = "time"
    return {INPUT: axes, OUTPUT: axes}


def _own_tensors(
    model: ModelProto, trained: Trained, arrays: Mapping[str, NDArray[np.generic]]
) -> dict[str, NDArray[np.float32]]:
    """Write the state's values into a graph's initialisers, in the state's order.

    Return the floats. Raises ModelError for a tensor of another shape than the state's.
    """
    from onnx import numpy_helper

    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    del model.graph.initializer[:]
    tensors: dict[str, NDArray[np.float32]] = {}
    for entry in trained.layout.entries:
        if entry.name not in initializers:
            continue
        dims = tuple(initializers.pop(entry.name).dims)
        if dims != entry.shape:
            raise ModelError(
                f"model '{trained.experiment.model.name}' cannot be exported to ONNX: its "
                f"graph has '{entry.name}' as {list(dims)}, its state as {list(entry.shape)}"
            )
        array = arrays[entry.name]
        if entry.is_float:
            tensors[entry.name] = array.astype(np.float32, copy=False)
        # The module that was traced had its floats widened.
        dtype = "float32" if entry.is_float else entry.dtype
        initializer = numpy_helper.from_array(array.astype(dtype), entry.name)
        model.graph.initializer.append(initializer)
    # Constants of the model's code, such as a buffer that no state holds, stay in the graph.
    model.graph.initializer.extend(initializers.values())
    return tensors


def describe(model: ModelProto, props: Mapping[str, str]) -> None:
    """Name the maker and the metadata, and leave out what differs from torch to torch."""
    model.producer_name = "fedlearn"
    model.producer_version = fedlearn.__version__
    model.graph.name = "fedlearn"
    for node in model.graph.node:
        node.doc_string = ""
    del model.metadata_props[:]
    for key, value in props.items():
        model.metadata_props.add(key=key, value=value)


def with_values(model: ModelProto, tensors: Mapping[str, NDArray[Any]]) -> bytes:
    """Return a graph serialised, its float initialisers replaced by these, all external."""
    from onnx import TensorProto, numpy_helper

    constants = [
        tensor
        for tensor in model.graph.initializer
        if tensor.data_location != TensorProto.EXTERNAL
    ]
    del model.graph.initializer[:]
    for name, tensor in tensors.items():
        model.graph.initializer.append(numpy_helper.from_array(tensor, name))
    model.graph.initializer.extend(constants)
    make_external(model, tensors)
    graph: bytes = model.SerializeToString(deterministic=True)
    return graph


def make_external(
    model: ModelProto, tensors: Mapping[str, NDArray[Any]], file: str = WEIGHTS_FILE
) -> None:
    """Move initialisers out of a graph, in place, to where `weights_bytes` puts them."""
    from onnx import TensorProto

    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    offset = 0
    for name, array in tensors.items():
        initializer = initializers[name]
        # Whichever of them its maker chose.
        for values in ("raw_data", "float_data", "int32_data", "int64_data"):
            initializer.ClearField(values)
        initializer.data_location = TensorProto.EXTERNAL
        place = {"location": file, "offset": offset, "length": array.nbytes}
        for key, value in place.items():
            initializer.external_data.add(key=key, value=str(value))
        offset += array.nbytes


def _shape_of(value: Any) -> tuple[int | str, ...]:
    """Return the shape of a graph's input or output, with the names of its free axes."""
    dims = value.type.tensor_type.shape.dim
    return tuple(dim.dim_param or dim.dim_value for dim in dims)
