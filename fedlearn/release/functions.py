"""A person's ONNX graphs made functions of a package: checked, measured by their shapes, run.

What a function may be is decided by `fedlearn.package.function_graph`, here as on devices. What
only its maker needs to know is found here: whether ONNX's own checker takes it, and whether its
memory is known and within its limit before it runs anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from fedlearn.errors import FormatError, UserError, reason_of
from fedlearn.package import content, function_golden, npz
from fedlearn.package.accepting import RUNTIME
from fedlearn.package.function_graph import check_function
from fedlearn.package.function_run import Functions
from fedlearn.package.functions import (
    MEMORY_MB,
    PRE,
    ROWS,
    TIME_MS,
    Function,
    check_chain,
    of_role,
)
from fedlearn.package.golden import Golden, prepared
from fedlearn.package.graph import inspect
from fedlearn.package.manifest import Manifest
from fedlearn.package.parts import (
    DTYPES,
    FUNCTIONS_GOLDEN_FILE,
    MOST_FUNCTION_BYTES,
    MOST_OPSET,
    ListedFile,
    Port,
    Support,
    function_file,
)

_Type = onnx.TypeProto.Tensor


@dataclass(frozen=True)
class FunctionWish:
    """A function that a package is to have. data: the graph's bytes. Else as `Function`."""

    name: str
    role: str
    data: bytes
    time_ms: int = TIME_MS
    memory_mb: int = MEMORY_MB


def function_of(wish: FunctionWish) -> Function:
    """Return what a manifest says of a graph, which was checked.

    Raises PackageError for what no package may have, UserError for what ONNX's checker
    refuses, for tensors that no function takes, and for more memory than its limit.
    """
    file = function_file(wish.name)
    if len(wish.data) <= MOST_FUNCTION_BYTES:
        # Before onnx reads it: what is refused here is refused by its name.
        inspect(wish.data, file, None, MOST_FUNCTION_BYTES)
    model = _model(wish)
    # Constants may stand among the inputs, too.
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    if len(inputs) != 1:
        raise _wrong(wish, f"has {len(inputs)} inputs; it has to take one")
    function = Function(
        name=wish.name,
        role=wish.role,
        input=_port(wish, inputs[0]),
        outputs=tuple(_port(wish, value) for value in model.graph.output),
        time_ms=wish.time_ms,
        memory_mb=wish.memory_mb,
    )
    # Whatever its opset is: the package's is the newest of all its graphs.
    check_function(function, wish.data, (Support(RUNTIME, MOST_OPSET),))
    _check_memory(wish)
    return function


def opset_of(wishes: Sequence[FunctionWish], opset: int) -> int:
    """Return the opset that a device has to read: the newest of all graphs."""
    opsets = [opset]
    for wish in wishes:
        graph = inspect(wish.data, function_file(wish.name), None, MOST_FUNCTION_BYTES)
        opsets.append(graph.opsets.get("", 0))
    return max(opsets)


def with_functions(
    manifest: Manifest,
    wishes: Sequence[FunctionWish],
    answers: Golden,
    samples: NDArray[Any] | None,
) -> tuple[Manifest, dict[str, bytes]]:
    """Return a manifest with functions, and their files.

    answers: the model's golden file. samples: as clients send them, (N, …); None: the golden
    inputs. Raises as `function_of`, and PackageError, "function", for functions that do not
    fit together, exceed a limit or give no numbers.
    """
    functions = tuple(function_of(wish) for wish in wishes)
    graphs = {wish.name: wish.data for wish in wishes}
    check_chain(
        functions, manifest.input, manifest.preprocessing.dtype, manifest.output
    )
    before = of_role(functions, PRE)
    chosen = _samples(before[0], manifest, answers, samples) if before else None
    arrays = function_golden.arrays(
        Functions(functions, graphs), chosen, answers.outputs
    )
    files = {function_file(name): data for name, data in graphs.items()}
    files[FUNCTIONS_GOLDEN_FILE] = npz.dumps(arrays)
    return manifest.with_functions(functions, _listed(files)), files


def memory_bytes(data: bytes, rows: int = ROWS) -> int:
    """Return the most bytes that a graph has at once for so many samples.

    Its constants, its input, and what is computed and needed still: by the shapes that ONNX
    infers, before it runs. Raises FormatError for a tensor whose size depends on values.
    """
    model = onnx.load_model_from_string(data)
    sizes = _sizes(model, rows)
    graph = model.graph
    last_use = {
        name: len(graph.node) for name in (value.name for value in graph.output)
    }
    for place, node in enumerate(graph.node):
        for name in node.input:
            last_use[name] = max(last_use.get(name, 0), place)
    # Constants are there from the loading on.
    constant_bytes = sum(sizes[tensor.name] for tensor in graph.initializer)
    inputs = [value.name for value in graph.input]
    alive = {name: sizes[name] for name in inputs}
    most_bytes = sum(alive.values())
    # Nodes stand in an order in which they can run, and onnxruntime runs them in one.
    for place, node in enumerate(graph.node):
        alive.update((name, sizes[name]) for name in node.output if name)
        most_bytes = max(most_bytes, sum(alive.values()))
        # What is an output, or is used further on, stays.
        alive = {
            name: size for name, size in alive.items() if last_use.get(name, 0) > place
        }
    return constant_bytes + most_bytes


def _sizes(model: onnx.ModelProto, rows: int) -> dict[str, int]:
    """Return the bytes of each tensor of a graph. Raises FormatError."""
    constants = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        if value.name not in constants:
            value.type.tensor_type.shape.dim[0].dim_value = rows
    # What a file claims of its tensors is inferred anew.
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        inferred = onnx.shape_inference.infer_shapes(
            model, check_type=True, strict_mode=True, data_prop=True
        )
    except Exception as error:
        raise FormatError(f"has shapes that contradict: {reason_of(error)}") from None
    graph = inferred.graph
    sizes = {}
    for tensor in graph.initializer:
        sizes[tensor.name] = _bytes(tensor.data_type, tensor.dims)
    values = [*graph.input, *graph.value_info, *graph.output]
    types = {value.name: value.type.tensor_type for value in values}
    names = [name for node in graph.node for name in node.output if name]
    for name in [value.name for value in graph.input] + names:
        sizes[name] = _type_bytes(name, types.get(name))
    return sizes


def _type_bytes(name: str, kind: _Type | None) -> int:
    """Return the bytes of a tensor of a type. Raises FormatError for an open axis."""
    if kind is not None and kind.HasField("shape"):
        dims = kind.shape.dim
        if all(dim.HasField("dim_value") for dim in dims):
            return _bytes(kind.elem_type, [dim.dim_value for dim in dims])
    raise FormatError(
        f"has a tensor '{name}' whose size is not known before it runs; give each axis but "
        "the first a length, and leave out operations whose sizes depend on values"
    )


def _bytes(element: int, dims: Sequence[int]) -> int:
    return int(onnx.helper.tensor_dtype_to_np_dtype(element).itemsize) * prod(dims)


def _check_memory(wish: FunctionWish) -> None:
    """Refuse a graph that needs more than its limit, or no known memory. Raises UserError."""
    try:
        needed = memory_bytes(wish.data)
    except FormatError as error:
        raise _wrong(wish, str(error)) from None
    if needed > wish.memory_mb << 20:
        megabytes = -(-needed >> 20)
        raise _wrong(
            wish,
            f"needs {megabytes} MB for {ROWS} samples, and its limit is {wish.memory_mb}; "
            f"give it --limits {wish.name}={wish.time_ms},{megabytes}",
        )


def _model(wish: FunctionWish) -> onnx.ModelProto:
    """Return a graph that ONNX's own checker takes. Raises UserError."""
    try:
        model = onnx.load_model_from_string(wish.data)
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:
        reason = reason_of(error).partition("\n")[0]
        raise _wrong(
            wish, f"is no ONNX graph that its checker takes: {reason}"
        ) from None
    return model


def _port(wish: FunctionWish, value: onnx.ValueInfoProto) -> Port:
    kind = value.type.tensor_type
    dtype = _dtype(kind.elem_type)
    if dtype not in DTYPES:
        raise _wrong(wish, f"has '{value.name}' as {dtype}, not {', '.join(DTYPES)}")
    lengths: list[int | None] = []
    for place, dim in enumerate(kind.shape.dim):
        is_known = dim.HasField("dim_value")
        # The first axis is that of samples, and has a name or nothing.
        lengths.append(dim.dim_value if is_known else None)
        if is_known and not place:
            raise _wrong(
                wish,
                f"takes {dim.dim_value} samples in '{value.name}'; its first axis has to be "
                "of any length (dynamic)",
            )
    return Port(value.name, tuple(lengths), dtype)


def _dtype(element: int) -> str:
    if (
        element == onnx.TensorProto.STRING
        or element not in onnx.TensorProto.DataType.values()
    ):
        return "texts"
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(element)).name


def _samples(
    first: Function, manifest: Manifest, answers: Golden, samples: NDArray[Any] | None
) -> NDArray[Any]:
    """Return samples as the first function takes them: those given, or the golden inputs.

    Raises UserError where they do not fit.
    """
    port = first.input
    if samples is not None:
        if not _fits(samples, port):
            raise UserError(
                f"--samples are {samples.dtype.name} {list(samples.shape)}, and function "
                f"'{first.name}' takes {port.dtype} {list(port.shape)}"
            )
        # As many as the model has: a package is sent to every device.
        return samples[: len(answers.inputs)]
    for candidate in (answers.inputs, prepared(answers.inputs, manifest.preprocessing)):
        if _fits(candidate, port):
            return candidate
    raise UserError(
        f"function '{first.name}' takes {port.dtype} {list(port.shape)}, which the test "
        "samples are not; give some as clients send them: --samples FILE.npy"
    )


def _fits(array: NDArray[Any], port: Port) -> bool:
    is_alike = array.dtype.name == port.dtype and array.shape[1:] == port.shape[1:]
    return is_alike and array.ndim > 0 and len(array) > 0


def _listed(files: Mapping[str, bytes]) -> dict[str, ListedFile]:
    return {path: content.listed(data) for path, data in files.items()}


def _wrong(wish: FunctionWish, what: str) -> UserError:
    return UserError(f"function '{wish.name}' {what}")


def read_file(path: Path, what: str) -> bytes:
    """Return a graph's bytes. what: names it in errors. Raises UserError."""
    try:
        size = path.stat().st_size
        if size > MOST_FUNCTION_BYTES:
            raise UserError(
                f"{what}: '{path}' has {size:,} bytes, more than {MOST_FUNCTION_BYTES:,}"
            )
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{what}: '{path}' cannot be read: {reason_of(error)}"
        ) from None
