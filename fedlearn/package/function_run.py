"""Functions that run: each in a session of its own, within its time and its memory.

Memory is onnxruntime's arena with a limit: an operation that would exceed it fails, whatever
sizes a graph hides. Time is a watchdog's. A run takes `ROWS` samples at most, so both limits
hold for batches of any size.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedlearn.errors import FedlearnError, PackageError, UserError, reason_of
from fedlearn.package import runtime
from fedlearn.package.content import Package
from fedlearn.package.functions import POST, PRE, ROWS, Function, of_role
from fedlearn.package.parts import Port, function_file
from fedlearn.package.watchdog import WATCHDOG

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Array = NDArray[Any]

TIME = "time"
MEMORY = "memory"
VALUES = "values"

# 1.20 has one arena for all sessions of a process; from here on each may have its own.
OLDEST = (1, 23)

# What onnxruntime says where its arena is used up.
_ARENA = "bfc_arena"

# A session takes the arena that is registered when it is made: one at a time.
_REGISTERING = threading.Lock()


class FunctionError(FedlearnError):
    """A function that gave no answer. reason: `TIME`, `MEMORY` or `VALUES`, which are the
    samples'."""

    def __init__(self, reason: str, text: str) -> None:
        """Keep the reason beside the sentence."""
        super().__init__(text)
        self.reason = reason


class Step:
    """One function in onnxruntime."""

    def __init__(self, function: Function, data: bytes) -> None:
        """Load a graph, which was checked before.

        Raises UserError without onnxruntime, PackageError, "runtime" or "function".
        """
        self.function = function
        self._runtime = _runtime()
        self._session: Any = _session(function, data)
        _check_shapes(function, self._session)

    def run(self, samples: Array) -> list[Array]:
        """Return what it makes of samples (B, …): an array of B for each output.

        Raises FunctionError.
        """
        # Nearly always: nothing is copied.
        if len(samples) <= ROWS:
            return self._part(samples)
        parts = [
            self._part(samples[start : start + ROWS])
            for start in range(0, len(samples), ROWS)
        ]
        return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]

    def _part(self, samples: Array) -> list[Array]:
        """Return the same of `ROWS` samples at most."""
        function = self.function
        # One of each run: what was ended stays so.
        options = self._runtime.RunOptions()
        failure = None
        outputs: list[Array] = []
        with WATCHDOG.watching(options, function.time_ms / 1000) as watched:
            try:
                outputs = self._session.run(
                    None, {function.input.name: samples}, options
                )
            # It has an exception class for each of its codes, and none above them.
            except Exception as error:
                failure = error
        # First: what was ended has failed, too.
        if watched.is_ended:
            raise FunctionError(
                TIME,
                f"function '{function.name}' took more than its {function.time_ms} ms for "
                f"{len(samples)} samples",
            )
        if failure is not None:
            raise _failed(function, failure)
        self._check(outputs, len(samples))
        return outputs

    def _check(self, outputs: Sequence[Array], rows: int) -> None:
        """Refuse outputs of other shapes than the manifest's: a graph may promise anything."""
        for port, output in zip(self.function.outputs, outputs, strict=True):
            if output.shape != (rows, *port.shape[1:]):
                raise FunctionError(
                    VALUES,
                    f"function '{self.function.name}' gives '{port.name}' of shape "
                    f"{list(output.shape)} for {rows} samples",
                )


class Functions:
    """The functions of a package. before, after: the model, in their order."""

    def __init__(
        self, functions: Sequence[Function], graphs: Mapping[str, bytes]
    ) -> None:
        """Load functions. graphs: by their names. Raises as `Step`."""
        self.before = _steps(functions, graphs, PRE)
        self.after = _steps(functions, graphs, POST)

    @property
    def input(self) -> Port | None:
        """Return what clients send; None: what the model takes."""
        return self.before[0].function.input if self.before else None

    @property
    def outputs(self) -> tuple[Port, ...] | None:
        """Return what answers are; None: what the model gives."""
        return self.after[-1].function.outputs if self.after else None

    def prepare(self, samples: Array) -> Array:
        """Return what the model takes, of what clients send (B, …). Raises FunctionError."""
        for step in self.before:
            samples = step.run(samples)[0]
        return samples

    def answer(self, output: Array) -> list[Array]:
        """Return the answers, of what the model gives (B, …). Raises FunctionError."""
        outputs = [output]
        for step in self.after:
            outputs = step.run(outputs[0])
        return outputs


def load(package: Package) -> Functions | None:
    """Return a package's functions; None: it has none. Raises as `Step`."""
    functions = package.manifest.functions
    if not functions:
        return None
    graphs = {
        function.name: package.file(function_file(function.name))
        for function in functions
    }
    return Functions(functions, graphs)


def _steps(
    functions: Sequence[Function], graphs: Mapping[str, bytes], role: str
) -> tuple[Step, ...]:
    steps = [Step(each, graphs[each.name]) for each in of_role(functions, role)]
    return tuple(steps)


def _session(function: Function, data: bytes) -> InferenceSession:
    """Return a session whose memory is an arena of its own, with the function's limit."""
    onnxruntime = _runtime()
    options = runtime.options(onnxruntime)
    # It keeps a plan of memory for each number of samples.
    options.enable_mem_pattern = False
    # What is computed while a graph is loaded has no limit: a few bytes may stand for gigabytes.
    off = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.graph_optimization_level = off
    options.add_session_config_entry("session.use_env_allocators", "1")
    # As much as is asked for, and not the next power of two.
    limits = {"max_mem": function.memory_bytes, "arena_extend_strategy": 1}
    place = onnxruntime.OrtMemoryInfo(
        "Cpu",
        onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR,
        0,
        onnxruntime.OrtMemType.DEFAULT,
    )
    try:
        with _REGISTERING:
            onnxruntime.create_and_register_allocator(
                place, onnxruntime.OrtArenaCfg(limits)
            )
            session: InferenceSession = onnxruntime.InferenceSession(
                data, options, providers=["CPUExecutionProvider"]
            )
    except Exception as error:
        if _ARENA in str(error):
            raise _error(function, "has constants beyond its limit of memory") from None
        raise PackageError(
            "runtime",
            f"onnxruntime {onnxruntime.__version__} does not load the function "
            f"'{function.name}': {reason_of(error)}",
        ) from None
    return session


def _check_shapes(function: Function, session: InferenceSession) -> None:
    """Refuse a graph whose tensors have other shapes than the manifest's."""
    nodes = [*session.get_inputs(), *session.get_outputs()]
    ports = (function.input, *function.outputs)
    for node, port in zip(nodes, ports, strict=True):
        lengths = tuple(
            length if isinstance(length, int) else None for length in node.shape
        )
        if lengths != port.shape:
            raise _error(
                function, f"has '{port.name}' of another shape than the manifest says"
            )


def _failed(function: Function, error: Exception) -> FunctionError:
    text = reason_of(error)
    if _ARENA in text:
        return FunctionError(
            MEMORY,
            f"function '{function.name}' needs more memory than its "
            f"{function.memory_mb} MB",
        )
    # It names places in its own sources before it comes to the point.
    point = text.rpartition(" : ")[2] or text
    return FunctionError(
        VALUES, f"function '{function.name}' cannot compute this: {point}"
    )


def _error(function: Function, what: str) -> PackageError:
    return PackageError("function", f"function '{function.name}' {what}")


def _runtime() -> Any:
    """Return onnxruntime. Raises UserError without it, or for one that bounds no memory."""
    try:
        onnxruntime = runtime.load()
    except ImportError:
        raise UserError("functions need onnxruntime: pip install onnxruntime") from None
    version = onnxruntime.__version__
    if is_older(version):
        needed = ".".join(str(part) for part in OLDEST)
        raise UserError(
            f"functions need onnxruntime {needed} or newer, which bounds the memory of each; "
            f"this is {version}: pip install --upgrade onnxruntime"
        )
    return onnxruntime


def is_older(version: str) -> bool:
    """Tell whether a version of onnxruntime, such as "1.20.1", is older than `OLDEST`."""
    numbers = [int(part) for part in version.split(".")[:2] if part.isdecimal()]
    return tuple(numbers) < OLDEST
