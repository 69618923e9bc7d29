"""What a function's graph may be: ONNX's own operations, straight through, nothing outside.

Read by hand, as the model's graph is, so that a device needs no package ``onnx``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fedlearn.errors import PackageError
from fedlearn.package import graph
from fedlearn.package.functions import Function
from fedlearn.package.parts import (
    MOST_FUNCTION_BYTES,
    Port,
    Support,
    function_file,
)
from fedlearn.text import first_few

# Their end is known only by running them, or there are two ways through them.
CONTROL_FLOW: Final = ("If", "Loop", "Scan", "SequenceMap")

# The same samples have to give the same answer, on every board.
RANDOM: Final = (
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
)


def check_function(
    function: Function, data: bytes, targets: Sequence[Support]
) -> graph.Graph:
    """Return what a function's graph has, if a package may have it.

    Raises PackageError: "limits", "graph", "tensor" or "path" for what no graph may have,
    "function" for what no function may be.
    """
    file = function_file(function.name)
    if len(data) > MOST_FUNCTION_BYTES:
        raise PackageError(
            "limits",
            f"{file} has {len(data):,} bytes, more than {MOST_FUNCTION_BYTES:,}",
        )
    content = graph.inspect(data, file, None, MOST_FUNCTION_BYTES)
    _check_operations(content, file)
    _check_ports(function, content, file)
    opset = content.opsets.get("", 0)
    if all(opset > target.opset for target in targets):
        raise PackageError("graph", f"{file} has opset {opset}, which no target has")
    return content


def _check_operations(content: graph.Graph, file: str) -> None:
    """Refuse what has no known end, another answer each time, or another owner than ONNX."""
    # A model may have them, when it is quantised; a function is written by a person.
    prefix = f"{graph.RUNTIME_DOMAIN}."
    custom = sorted(name for name in content.operations if name.startswith(prefix))
    if custom:
        raise PackageError(
            "function", f"{file} has {first_few(custom)}, which is none of ONNX's own"
        )
    bare_names = {name.removeprefix("ai.onnx."): name for name in content.operations}
    branching = {*bare_names} & {*CONTROL_FLOW} | content.nested
    if branching:
        raise PackageError(
            "function",
            f"{file} has {first_few(sorted(branching))}: a function goes straight "
            "through, without loops and branches",
        )
    drawing = {*bare_names} & {*RANDOM}
    if drawing:
        raise PackageError(
            "function",
            f"{file} has {first_few(sorted(drawing))}: the same samples have to give the "
            "same answer",
        )


def _check_ports(function: Function, content: graph.Graph, file: str) -> None:
    inputs = _dtypes((function.input,))
    outputs = _dtypes(function.outputs)
    # In their order: an answer has its outputs by their places.
    is_same = list(content.outputs.items()) == list(outputs.items())
    if content.inputs != inputs or not is_same:
        raise PackageError(
            "function", f"{file} has other inputs or outputs than the manifest says"
        )


def _dtypes(ports: Sequence[Port]) -> dict[str, str]:
    return {port.name: port.dtype for port in ports}
