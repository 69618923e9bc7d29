"""A model that is ready to answer: an ONNX Runtime session, and what its tensors look like."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from fedlearn.clients.infer.drift import DriftReference, reference
from fedlearn.clients.infer.outputs import Outputs, refused
from fedlearn.clients.infer.refusal import Refusal, bad
from fedlearn.clients.infer.tensors import DATATYPES, Array, Shape, fits
from fedlearn.errors import ModelError, UserError, reason_of
from fedlearn.package import (
    content,
    function_golden,
    function_run,
    golden,
    matching,
    runtime,
)
from fedlearn.package.function_run import FunctionError, Functions
from fedlearn.package.parts import GRAPH_FILE, INT8_GRAPH_FILE, Port
from fedlearn.system import files
from fedlearn.text import first_few

# ONNX Runtime's names of element types, as numpy has them.
_ELEMENTS = {
    "bool": "?",
    "uint8": "u1",
    "uint16": "<u2",
    "uint32": "<u4",
    "uint64": "<u8",
    "int8": "i1",
    "int16": "<i2",
    "int32": "<i4",
    "int64": "<i8",
    "float16": "<f2",
    "float": "<f4",
    "double": "<f8",
}

# Hex digits of a file's SHA-256 that name the version of a model without a manifest.
_VERSION_DIGITS = 12

# Runs that warm a new session and tell how long one takes.
_WARM_RUNS = 3


@dataclass(frozen=True)
class TensorPort:
    """An input or an output of a model. shape: -1 is an axis of any length."""

    name: str
    dtype: np.dtype[Any]
    shape: Shape

    @property
    def datatype(self) -> str:
        """Return the protocol's name of the dtype."""
        return DATATYPES[self.dtype]


@dataclass(frozen=True)
class RawSamples:
    """How raw samples become a model's input: cast, then divided by ``divide`` if it is given."""

    dtype: np.dtype[Any]
    divide: float | None = None


@dataclass(frozen=True)
class ServedModel:
    """One version of a model, which never changes.

    labels: names of the scores on an output's last axis, if they are known. raw: what the
    only input takes besides its own dtype. batches: whether samples of different requests
    can be computed together. run_s: what one run of one sample took when it was loaded.
    reference: what a package was tested on; None: an .onnx file does not say. functions: steps
    around ``core``, the model itself; inputs and outputs are then those of the steps.
    """

    version: str
    session: Any = field(repr=False)
    inputs: tuple[TensorPort, ...]
    outputs: tuple[TensorPort, ...]
    labels: tuple[str, ...] = ()
    raw: RawSamples | None = None
    batches: bool = False
    run_s: float = 0.0
    reference: DriftReference | None = field(default=None, repr=False)
    functions: Functions | None = field(default=None, repr=False)
    core: ServedModel | None = field(default=None, repr=False)

    @property
    def function_names(self) -> list[str]:
        """Return the names of the steps around the model, in their order."""
        if self.functions is None:
            return []
        steps = (*self.functions.before, *self.functions.after)
        return [step.function.name for step in steps]

    def checked(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """Return inputs as the session takes them; raises Refusal for others than its own."""
        if tensors.keys() != {port.name for port in self.inputs}:
            names = first_few(f"'{port.name}'" for port in self.inputs)
            raise bad(
                f"the model's inputs are {names}; the request has "
                f"{first_few([f'{name[:60]!r}' for name in tensors]) or 'none'}"
            )
        inputs = {}
        for port in self.inputs:
            inputs[port.name] = self._fitting(port, tensors[port.name])
        if self.batches:
            rows = {len(tensor) for tensor in inputs.values()}
            if len(rows) > 1:
                raise bad("the inputs have different numbers of samples")
            if 0 in rows:
                raise bad("the request has no samples")
        return inputs

    def run(self, inputs: Mapping[str, Array]) -> list[Array]:
        """Return all outputs in their order; raises Refusal for what the runtime refuses."""
        if self.functions is not None and self.core is not None:
            return self._run_around(self.functions, self.core, inputs)
        try:
            outputs: list[Array] = self.session.run(None, inputs)
        # ONNX Runtime has a dozen classes of errors, and texts with paths of its sources.
        except Exception as error:
            raise Refusal(
                400, "model", f"the model cannot compute this: {_plain(error)}"
            ) from None
        return outputs

    def _run_around(
        self, functions: Functions, core: ServedModel, inputs: Mapping[str, Array]
    ) -> Outputs:
        """Return what functions make of the model's outputs; raises Refusal."""
        # A package's model has one input, and so has each function.
        samples = inputs[self.inputs[0].name]
        try:
            prepared = core.checked({core.inputs[0].name: functions.prepare(samples)})
            scores = core.run(prepared)
            return Outputs(functions.answer(scores[0]), prepared, scores)
        except FunctionError as error:
            raise refused(error) from None

    def _fitting(self, port: TensorPort, tensor: Array) -> Array:
        shape = tensor.shape
        if not fits(port.shape, shape):
            raise bad(
                f"input '{port.name}': the shape is {list(shape)}, and the model takes "
                f"{list(port.shape)}"
            )
        if tensor.dtype == port.dtype:
            return tensor
        raw = self.raw
        if raw is None or tensor.dtype != raw.dtype:
            also = f" or {DATATYPES[raw.dtype]}, which is prepared here" if raw else ""
            raise bad(
                f"input '{port.name}': the datatype is {DATATYPES[tensor.dtype]}, and "
                f"the model takes {port.datatype}{also}"
            )
        prepared = tensor.astype(port.dtype)
        return prepared / port.dtype.type(raw.divide) if raw.divide else prepared


def load(path: Path, int8: bool = False) -> ServedModel:
    """Return the model of an ONNX file or a package, warmed up.

    int8: a package's int8 model. Raises UserError where there is none, and ModelError or
    PackageError for one that cannot serve.
    """
    if path.is_dir():
        return _of_package(path, int8)
    if not path.is_file():
        raise UserError(
            f"there is no model at '{path}'; give a package folder or an .onnx file"
        )
    if int8:
        raise UserError(f"'{path}' is no package, which --int8 needs")
    return _of_file(path)


def _of_file(path: Path) -> ServedModel:
    digest = files.sha256(path)
    session = _session(path, str(path))
    facts = session.get_modelmeta().custom_metadata_map
    labels = _json_fact(path, facts, "fedlearn.labels", list)
    steps = _json_fact(path, facts, "fedlearn.preprocessing", dict)
    return _served(path, session, digest[:_VERSION_DIGITS], labels or (), steps)


def _of_package(path: Path, int8: bool) -> ServedModel:
    """Return the model of a package: its bytes are checked, and so is what they compute."""
    package = content.read(path)
    # A package that computes something else on this board must not serve.
    golden.check(package, int8)
    function_golden.check(package)
    manifest = package.manifest
    tensors = package.tensors()
    file = GRAPH_FILE
    if int8:
        file = INT8_GRAPH_FILE
        tensors = golden.rebuilt(package, tensors)
    # The bytes that were checked, not what lies in the folder by now.
    graph = package.file(file)
    # The weights may have more: what a run needs that starts from them.
    names = matching.inspected(manifest, graph, file).external
    used = {name: tensors[name] for name in names}
    session = _session(path, graph, used)
    steps = dataclasses.asdict(manifest.preprocessing)
    model = _served(path, session, str(manifest.counter), manifest.labels, steps)
    model = replace(model, reference=reference(golden.read(package), manifest))
    functions = function_run.load(package)
    return model if functions is None else _surrounded(path, model, functions)


def _surrounded(path: Path, core: ServedModel, functions: Functions) -> ServedModel:
    """Return a model with functions around it, which has run; raises ModelError."""
    inputs = core.inputs
    outputs = core.outputs
    # What the first function takes is no raw sample of the model.
    raw = core.raw
    if functions.input is not None:
        inputs = (_of_port(functions.input),)
        raw = None
    if functions.outputs is not None:
        outputs = tuple(_of_port(port) for port in functions.outputs)
    # Names of scores say nothing of what is none.
    has_scores = outputs[0].shape[-1:] == core.outputs[0].shape[-1:]
    has_scores = has_scores and outputs[0].dtype.kind == "f"
    model = replace(
        core,
        inputs=inputs,
        outputs=outputs,
        raw=raw,
        labels=core.labels if has_scores else (),
        functions=functions,
        core=core,
    )
    return replace(model, run_s=_warmed(path, model.run, inputs))


def _of_port(port: Port) -> TensorPort:
    lengths = [-1 if length is None else length for length in port.shape]
    return TensorPort(port.name, np.dtype(port.dtype), tuple(lengths))


def _session(
    path: Path, graph: str | bytes, tensors: Mapping[str, Array] | None = None
) -> Any:
    """Return a session on one thread; graph: a file, or its bytes with tensors apart.

    Raises UserError without ONNX Runtime, and ModelError for what it does not load.
    """
    try:
        onnxruntime = runtime.load()
    except ImportError:
        raise UserError(
            "serving needs ONNX Runtime: pip install 'fedlearn[infer]'"
        ) from None
    # A board has other work, and requests are batched: more threads would only wait.
    options = runtime.options(onnxruntime)
    # It keeps a plan of memory for each size of a batch: 10 MB of a small model's.
    options.enable_mem_pattern = False
    names = list(tensors or {})
    values = [
        onnxruntime.OrtValue.ortvalue_from_numpy(tensor)
        for tensor in (tensors or {}).values()
    ]
    try:
        options.add_external_initializers(names, values)
        return onnxruntime.InferenceSession(
            graph, options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        raise ModelError(
            f"'{path}' is no ONNX model that this runtime can load: {_plain(error)}"
        ) from None


def _served(
    path: Path,
    session: Any,
    version: str,
    labels: Sequence[object],
    steps: Mapping[str, Any] | None,
) -> ServedModel:
    """Return a session as a model that has run; raises ModelError."""
    inputs = tuple(_port(path, node) for node in session.get_inputs())
    outputs = tuple(_port(path, node) for node in session.get_outputs())
    # Samples lie along the first axis where every tensor has one of any length.
    batches = bool(inputs) and all(
        port.shape[:1] == (-1,) for port in (*inputs, *outputs)
    )
    return ServedModel(
        version=version,
        session=session,
        inputs=inputs,
        outputs=outputs,
        labels=tuple(str(label) for label in labels),
        raw=_raw(path, inputs, steps),
        batches=batches,
        run_s=_warmed(path, lambda zeros: session.run(None, zeros), inputs),
    )


def _port(path: Path, node: Any) -> TensorPort:
    """Return one of a session's inputs or outputs; raises ModelError for what is no tensor."""
    element = node.type.removeprefix("tensor(").removesuffix(")")
    if element not in _ELEMENTS or node.shape is None:
        raise ModelError(
            f"'{path}': '{node.name}' is a {node.type}; only tensors of numbers can be "
            "served"
        )
    shape = tuple(
        length if isinstance(length, int) and length >= 0 else -1
        for length in node.shape
    )
    return TensorPort(node.name, np.dtype(_ELEMENTS[element]), shape)


def _raw(
    path: Path, inputs: tuple[TensorPort, ...], steps: Mapping[str, Any] | None
) -> RawSamples | None:
    """Return how raw samples are prepared; None: they are not. Raises ModelError."""
    if steps is None:
        return None
    try:
        raw = RawSamples(np.dtype(steps["dtype"]), steps.get("divide"))
        is_sound = len(inputs) == 1 and np.dtype(steps["cast"]) == inputs[0].dtype
        is_sound = is_sound and raw.dtype in DATATYPES
        is_sound = is_sound and (raw.divide is None or float(raw.divide) > 0)
    except (KeyError, TypeError, ValueError):
        is_sound = False
    if not is_sound:
        raise ModelError(f"'{path}': its preprocessing does not fit its input")
    return raw


def _warmed(
    path: Path,
    run: Callable[[Mapping[str, Array]], object],
    inputs: tuple[TensorPort, ...],
) -> float:
    """Run a model on zeros and return the shortest run's seconds; raises ModelError.

    The first run allocates, so it is no measure.
    """
    zeros = {}
    for port in inputs:
        shape = [1 if length < 0 else length for length in port.shape]
        zeros[port.name] = np.zeros(shape, port.dtype)
    durations = []
    for _ in range(_WARM_RUNS):
        begin = time.perf_counter()
        try:
            run(zeros)
        except Exception as error:
            raise ModelError(
                f"'{path}' cannot compute zeros of its own shape: {_plain(error)}"
            ) from None
        durations.append(time.perf_counter() - begin)
    return min(durations)


def _json_fact(path: Path, facts: Mapping[str, str], name: str, kind: type) -> Any:
    """Return what a graph's metadata says under a name; None: nothing. Raises ModelError."""
    text = facts.get(name)
    if text is None:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, kind):
        raise ModelError(f"'{path}': its metadata '{name}' cannot be read")
    return value


def _plain(error: Exception) -> str:
    """Return what ONNX Runtime says, without the place in its own sources."""
    text = reason_of(error)
    return text.rpartition(" : ")[2] or text
