"""A model with weights of 8 bits: static for convolutions, dynamic for dense and recurrent ones.

Static: activations are 8 bits too, by ranges seen on training samples. Source: Jacob et al.,
"Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
CVPR 2018; scales per channel as in Krishnamoorthi, "Quantizing deep convolutional networks for
efficient inference", arXiv 1806.08342, 2018. ONNX Runtime's quantiser makes it, in its QDQ
format alone: its QOperator format cost cnn-small 22 points, and dynamic int8 of convolutions
is 3 to 13 times slower than floats (docs/export.md).
"""

from __future__ import annotations

import base64
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedlearn.clients.batches import tensors as as_tensors
from fedlearn.errors import ModelError, reason_of
from fedlearn.export import dynamic, products
from fedlearn.export.extras import required
from fedlearn.export.fold import fold
from fedlearn.export.onnx import INPUT, Exported, describe, make_external, write
from fedlearn.package.int8 import (
    Tensors,
    file_bytes,
    folded,
    rebuild,
    rounded,
)
from fedlearn.runs.trained import Trained
from fedlearn.system import files

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto

INT8_GRAPH_FILE = "int8.onnx"
INT8_WEIGHTS_FILE = "int8.bin"

# How activations become whole numbers: by ranges of samples, or by that of each call.
Kind = Literal["static", "dynamic"]

# Training samples that the ranges of activations are taken from, and of how many clients.
SAMPLES = 200
CLIENTS = 50
BATCH = 50

# What runs on whole numbers. Others, such as the centring of pixels, cost more than they
# save: cnn-small took 49.5 µs with all of ONNX Runtime's, 44.6 to 48.4 µs without (one run).
STATIC_OPERATIONS = (
    "Add",
    "AveragePool",
    "Clip",
    "Conv",
    "Flatten",
    "Gemm",
    "GlobalAveragePool",
    "MatMul",
    "MaxPool",
    "Relu",
    "Reshape",
)


@dataclass(frozen=True)
class Quantised:
    """An int8 model: its graph, the tensors of `INT8_WEIGHTS_FILE`, and how to make them.

    recipe: what `fedlearn.package.int8.rebuild` makes the tensors from, given the float
    tensors of the model that is not folded. kind: how activations become whole numbers.
    """

    graph: bytes
    tensors: dict[str, NDArray[Any]]
    recipe: dict[str, Any]
    kind: Kind

    @property
    def in_floats(self) -> list[str]:
        """Return the names of weights that stay in floats: of no layer that can be int8."""
        return [
            name
            for name, tensor in self.tensors.items()
            if tensor.dtype.kind == "f" and tensor.ndim > 1
        ]

    @property
    def weights(self) -> bytes:
        """Return the bytes of `INT8_WEIGHTS_FILE`."""
        return file_bytes(self.tensors)


def quantised(trained: Trained, exported: Exported) -> Quantised:
    """Return the int8 model of a float one that is not folded.

    Convolutional models become static, all others dynamic. Raises ModelError for a model
    without a layer that can be int8.
    """
    if "Conv" in _operations(exported.graph):
        return static_int8(exported, calibration(trained))
    return dynamic_int8(exported)


def write_int8(int8: Quantised, folder: Path) -> None:
    """Write `INT8_GRAPH_FILE` and `INT8_WEIGHTS_FILE` into a folder; raises OSError."""
    files.make_folder(folder)
    files.replace(folder / INT8_WEIGHTS_FILE, int8.weights)
    files.replace(folder / INT8_GRAPH_FILE, int8.graph)


def calibration(trained: Trained, samples: int = SAMPLES) -> NDArray[Any]:
    """Return training samples (N, …) as the model takes them, always the same ones.

    They are the first of up to `CLIENTS` clients, each giving as many.
    """
    population = trained.population
    clients = min(CLIENTS, len(population.clients))
    share = -(-samples // clients)
    parts = []
    for client in range(clients):
        own_samples = population.clients[client]
        first = own_samples.take(np.arange(min(share, len(own_samples))))
        parts.append(as_tensors(first, population.modality).x.numpy())
    return np.concatenate(parts)[:samples]


def static_int8(exported: Exported, samples: NDArray[Any]) -> Quantised:
    """Return a model with int8 weights, one scale per channel, and uint8 activations.

    samples: (N, …) inputs that the ranges of the activations are taken from, by their
    smallest and largest values. BatchNorms are folded first. Raises ModelError where ONNX
    Runtime's quantiser fails.
    """
    onnx = required("onnx", "export", "int8")
    required("onnxruntime", "export", "int8")
    plain = fold(exported)
    with tempfile.TemporaryDirectory() as name, files.named(name):
        folder = Path(name)
        write(plain, folder)
        model = onnx.load(folder / "graph.onnx")
        # The quantiser needs every value's shape.
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
        products.join(inferred)
        inferred = onnx.shape_inference.infer_shapes(inferred)
        onnx.save(inferred, folder / "float.onnx")
        try:
            _quantise(folder / "float.onnx", folder / INT8_GRAPH_FILE, samples)
        # Of the disk, not of the model.
        except OSError:
            raise
        # It has no error of its own for what it cannot do.
        except Exception as error:
            raise ModelError(
                f"the model cannot be made int8: {reason_of(error)}; export it without --int8"
            ) from error
        model = onnx.load(folder / INT8_GRAPH_FILE)
    _keep_scores(model.graph)
    return _apart(model, exported, plain.folds, "static")


def dynamic_int8(exported: Exported) -> Quantised:
    """Return a model whose dense and LSTM layers have int8 weights.

    Activations become uint8 by their range in each call, so that no samples are needed.
    Raises ModelError for a model without such layers, and for one with convolutions.
    """
    onnx = required("onnx", "export", "int8")
    if "Conv" in _operations(exported.graph):
        raise ModelError(
            "dynamic int8 of convolutions is slower than floats; make the model static"
        )
    model = onnx.load_from_string(exported.graph)
    weights = dynamic.quantise(model, exported.tensors)
    if not weights:
        raise ModelError(
            "no layer of this model can be int8: it has no dense or LSTM one"
        )
    return _apart(model, exported, (), "dynamic")


def _quantise(source: Path, target: Path, samples: NDArray[Any]) -> None:
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class CalibrationReader(CalibrationDataReader):  # type: ignore[misc]
        """Gives samples in their order, `BATCH` at a time."""

        def __init__(self) -> None:
            starts = range(0, len(samples), BATCH)
            self._parts = iter([samples[start : start + BATCH] for start in starts])

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            part = next(self._parts, None)
            return None if part is None else {INPUT: part}

    with warnings.catch_warnings(), _no_advice():
        warnings.simplefilter("ignore")
        quantize_static(
            str(source),
            str(target),
            CalibrationReader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(STATIC_OPERATIONS),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )


def _keep_scores(graph: GraphProto) -> None:
    """Take the rounding off a graph's output, in place.

    Scores rounded to 256 steps are often equal, and the first of equal ones would win.
    """
    makers = {output: node for node in graph.node for output in node.output}
    for output in graph.output:
        back = makers.get(output.name)
        if back is None or back.op_type != "DequantizeLinear":
            continue
        forth = makers.get(back.input[0])
        if forth is None or forth.op_type != "QuantizeLinear":
            continue
        score = makers[forth.input[0]]
        readers = [node for node in graph.node if forth.input[0] in node.input]
        if len(readers) == 1:
            score.output[0] = output.name
            graph.node.remove(back)
            graph.node.remove(forth)


@contextmanager
def _no_advice() -> Iterator[None]:
    """Keep the quantiser's advice off: what it would have us do before is done already."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def _operations(graph: bytes) -> set[str]:
    """Return the kinds of a graph's nodes."""
    onnx = required("onnx", "export", "ONNX")
    return {node.op_type for node in onnx.load_from_string(graph).graph.node}


def _apart(
    model: ModelProto,
    exported: Exported,
    folds: Sequence[Mapping[str, Any]],
    kind: Kind,
) -> Quantised:
    """Return a quantised model's graph and tensors apart, with the recipe of the tensors."""
    from onnx import numpy_helper

    # ONNX Runtime's quantiser leaves some behind that nothing reads any more.
    used = set(_read(model.graph))
    items = [item for item in model.graph.initializer if item.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(items)
    tensors = {item.name: numpy_helper.to_array(item) for item in items}
    # Shapes of values inside, which ONNX Runtime finds itself.
    del model.graph.value_info[:]
    describe(model, exported.metadata)
    make_external(model, tensors, INT8_WEIGHTS_FILE)
    return Quantised(
        graph=model.SerializeToString(deterministic=True),
        tensors=tensors,
        recipe=recipe(exported.tensors, folds, tensors),
        kind=kind,
    )


def _read(graph: GraphProto) -> Iterator[str]:
    """Yield the values that a graph's nodes read, in graphs inside them too."""
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            yield from _read(attribute.g)
    for output in graph.output:
        yield output.name


def recipe(
    floats: Tensors, folds: Sequence[Mapping[str, Any]], tensors: Tensors
) -> dict[str, Any]:
    """Return how a quantised model's tensors are made from float ones, as plain JSON.

    floats: of the model that is not folded. folds: what was folded before it was quantised.
    Raises ModelError where a device would not get the same bits.
    """
    sources = folded(floats, folds)
    entries = [_entry(name, tensors, sources) for name in tensors]
    rules = {"folds": list(folds), "tensors": entries}
    rebuilt = rebuild(floats, rules)
    for name, tensor in tensors.items():
        if not _same(rebuilt[name], tensor):
            raise ModelError(f"int8: a device would not rebuild '{name}' bit for bit")
    return rules


def _entry(name: str, tensors: Tensors, floats: Tensors) -> dict[str, Any]:
    """Return the recipe of one tensor."""
    tensor = tensors[name]
    if name in floats and _same(floats[name], tensor):
        return {"name": name, "source": name}
    for rule in _roundings(name, tensors, floats):
        scale = tensors[rule["scale"]]
        again = rounded(floats[rule["source"]], scale, rule["axis"], rule["dtype"])
        if _same(again, tensor):
            return rule
    entry = {"name": name, "dtype": tensor.dtype.name, "shape": list(tensor.shape)}
    is_whole = tensor.dtype.kind in "iu"
    if is_whole and tensor.size and (tensor == tensor.flat[0]).all():
        return {**entry, "fill": int(tensor.flat[0])}
    little = tensor.astype(tensor.dtype.newbyteorder("<"))
    return {**entry, "values": base64.b64encode(little.tobytes()).decode()}


def _roundings(
    name: str, tensors: Tensors, floats: Tensors
) -> Iterator[dict[str, Any]]:
    """Yield the ways in which a tensor may be a rounded float one."""
    source = name.removesuffix(dynamic.QUANTISED)
    dtype = tensors[name].dtype.name
    if source == name or source not in floats or dtype not in ("int8", "int32"):
        return
    # ONNX Runtime names the scale of a bias after the rounded one.
    for scale_name in (f"{name}{dynamic.SCALE}", f"{source}{dynamic.SCALE}"):
        scale = tensors.get(scale_name)
        if scale is None:
            continue
        axes: list[int | None] = [None]
        if scale.size > 1:
            shape = floats[source].shape
            axes = [axis for axis, size in enumerate(shape) if size == scale.size]
        for axis in axes:
            yield {
                "name": name,
                "source": source,
                "scale": scale_name,
                "axis": axis,
                "dtype": dtype,
            }


def _same(first: NDArray[Any], second: NDArray[Any]) -> bool:
    """Tell whether two tensors have one dtype, one shape and the same bits."""
    if first.dtype != second.dtype or first.shape != second.shape:
        return False
    return first.tobytes() == second.tobytes()
