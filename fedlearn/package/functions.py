"""Functions: steps before and after the model, each a graph of a package, within limits.

What clients send goes through those of the role "pre", then through the model, and its output
through those of the role "post". A function takes one tensor of samples along its first axis;
all other axes have a length, so that what it may take is known before it runs. Its graph lies
in ``functions/NAME.onnx``.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Final

from fedlearn.errors import PackageError
from fedlearn.package.fields import Fields
from fedlearn.package.parts import MOST_FUNCTIONS, NAME, Port, read_port

PRE = "pre"
POST = "post"
ROLES = (PRE, POST)

# Samples that a function takes in one run; more go through it in turns. So its limits hold
# whatever the batch of the model is.
ROWS = 32

# A resize of 32 pictures takes some milliseconds, on a small and busy board a hundred times as
# long. What takes longer hangs.
TIME_MS = 1000
# 32 pictures of 224x224 pixels and 3 channels take 19 MB as float32, and twice that a step.
MEMORY_MB = 64

MOST_TIME_MS = 60_000
MOST_MEMORY_MB = 4096

# Of the last function after the model; all others have one.
MOST_OUTPUTS = 8

ITEM_BYTES: Final = {"float32": 4, "int64": 8, "uint8": 1, "int16": 2}


@dataclass(frozen=True)
class Function:
    """One step. role: `PRE` or `POST`. time_ms, memory_mb: of a run of `ROWS` samples.

    memory_mb counts what it takes in, its constants, and all that it computes, in MB of 2²⁰
    bytes.
    """

    name: str
    role: str
    input: Port
    outputs: tuple[Port, ...]
    time_ms: int = TIME_MS
    memory_mb: int = MEMORY_MB

    @property
    def memory_bytes(self) -> int:
        """Return the most bytes that a run may take."""
        return self.memory_mb << 20


def of_role(functions: Sequence[Function], role: str) -> tuple[Function, ...]:
    """Return the functions of a role, in their order."""
    return tuple(function for function in functions if function.role == role)


def read_functions(fields: Fields) -> tuple[Function, ...]:
    """Return the functions, from the field ``functions``; none without it.

    Raises PackageError.
    """
    # A manifest of before has no such field.
    if not fields.has("functions"):
        return ()
    functions = []
    for index, value in enumerate(fields.items("functions", MOST_FUNCTIONS, least=1)):
        place = f"manifest.functions[{index}]"
        entry = Fields(value, place)
        outputs = entry.items("outputs", MOST_OUTPUTS, least=1)
        function = Function(
            name=entry.text("name", 64, NAME),
            role=entry.text("role", 4),
            input=read_port(entry.table("input")),
            outputs=tuple(
                read_port(Fields(port, f"{place}.outputs")) for port in outputs
            ),
            time_ms=entry.whole("time_ms", least=1, most=MOST_TIME_MS),
            memory_mb=entry.whole("memory_mb", least=1, most=MOST_MEMORY_MB),
        )
        entry.end()
        functions.append(function)
    return tuple(functions)


def check_chain(
    functions: Sequence[Function], model_input: Port, raw_dtype: str, model_output: Port
) -> None:
    """Refuse functions that do not lead from clients to the model and on to an answer.

    raw_dtype: of samples that the package's own preprocessing takes, which may be what a
    function gives. Raises PackageError, "function".
    """
    names = [function.name for function in functions]
    roles = [function.role for function in functions]
    if len(set(names)) < len(names):
        raise PackageError("function", "two functions have one name")
    if set(roles) - set(ROLES) or roles != sorted(roles, key=ROLES.index):
        raise PackageError(
            "function", "the functions' roles are not 'pre' first and 'post' then"
        )
    for function in functions:
        _check_form(function)
    # The model lies between the two, so each is a chain of its own.
    before = of_role(functions, PRE)
    after = of_role(functions, POST)
    _check_links(before)
    _check_links(after)
    if before:
        _check_before(before[-1], model_input, raw_dtype)
    if after and _form(after[0].input) != _form(model_output):
        raise _wrong(after[0], f"takes {_form(after[0].input)}, {_gives(model_output)}")


def sample_bytes(port: Port) -> int:
    """Return the bytes of one sample."""
    return ITEM_BYTES[port.dtype] * prod(length or 0 for length in port.shape[1:])


def _check_form(function: Function) -> None:
    """Refuse tensors of no known size. Raises PackageError."""
    ports = (function.input, *function.outputs)
    for port in ports:
        if not port.shape or port.shape[0] is not None or None in port.shape[1:]:
            raise _wrong(
                function,
                f"has '{port.name}' of shape {_shape(port)}: the first axis has to be of "
                "any length, for samples, and all others of one",
            )
    if len({port.name for port in ports}) < len(ports):
        raise _wrong(function, "has two tensors of one name")
    # What it takes and gives lies in memory in any case, whatever it does between.
    needed = ROWS * sum(sample_bytes(port) for port in ports)
    if needed > function.memory_bytes:
        raise _wrong(
            function,
            f"takes and gives {needed:,} bytes for {ROWS} samples, more than its limit of "
            f"{function.memory_mb} MB",
        )


def _check_links(functions: Sequence[Function]) -> None:
    """Refuse functions of which one does not take what the one before gives."""
    for first, second in itertools.pairwise(functions):
        if len(first.outputs) > 1:
            raise _wrong(
                first, "has several outputs, which the last one alone may have"
            )
        output = _form(first.outputs[0])
        if output != _form(second.input):
            raise _wrong(
                second,
                f"takes {_form(second.input)}, and '{first.name}' gives {output}",
            )


def _check_before(last: Function, model_input: Port, raw_dtype: str) -> None:
    """Refuse a last function that gives nothing that the model takes."""
    if len(last.outputs) > 1:
        raise _wrong(last, "has several outputs, and the model takes one")
    port = last.outputs[0]
    axes = zip(port.shape, model_input.shape, strict=False)
    fits = len(port.shape) == len(model_input.shape)
    fits = fits and all(expected in (None, length) for length, expected in axes)
    if not fits or port.dtype not in (model_input.dtype, raw_dtype):
        dtypes = " or ".join(dict.fromkeys((raw_dtype, model_input.dtype)))
        raise _wrong(
            last,
            f"gives {_form(port)}, and the model takes {dtypes} {_shape(model_input)}",
        )


def _gives(port: Port) -> str:
    return f"and the model gives {_form(port)}"


def _form(port: Port) -> str:
    return f"{port.dtype} {_shape(port)}"


def _shape(port: Port) -> str:
    lengths = ["any" if length is None else str(length) for length in port.shape]
    return f"({', '.join(lengths)})"


def _wrong(function: Function, what: str) -> PackageError:
    return PackageError("function", f"function '{function.name}' {what}")
