"""What an inference request asks, whichever way it came, and the outputs that answer it."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedlearn.clients.infer.labels import classes
from fedlearn.clients.infer.model import ServedModel
from fedlearn.clients.infer.refusal import bad
from fedlearn.clients.infer.tensors import Array

# Characters of a request's id, which goes back as it came.
MOST_ID = 256

# The parameter by which a client says how long it waits: Triton's, in microseconds.
TIMEOUT = "timeout"

# The parameter that names a request's class of service.
CLASS = "class"

# The parameter by which a client asks how long its request was here, and the parameter of
# the answer that says it: in microseconds, waiting included. What the way took is the rest.
TIMING = "service_us"


@dataclass(frozen=True, slots=True)
class Output:
    """An output that a request wants. classes: its highest ones with names; 0: its values."""

    name: str
    is_binary: bool = False
    classes: int = 0


@dataclass(slots=True)
class InferQuestion:
    """A request as it came. timeout_s: how long the client waits; infinite: as we like.

    kind: its class of service; "": it names none. since_s: when it came, by
    `time.perf_counter`, if the client wants to know how long it was here.
    """

    id: str
    tensors: dict[str, Array]
    # Empty: every output.
    outputs: Sequence[Output] = ()
    is_binary: bool = False
    timeout_s: float = math.inf
    kind: str = ""
    since_s: float | None = None


def wanted_outputs(
    question: InferQuestion, model: ServedModel, outputs: Sequence[Array]
) -> list[tuple[Output, Array | list[list[str]]]]:
    """Return the outputs that were asked for, in that order: values, or rows of classes.

    Raises Refusal for classes of what has no scores.
    """
    by_name = dict(zip((port.name for port in model.outputs), outputs, strict=True))
    specs = question.outputs or [Output(name, question.is_binary) for name in by_name]
    pairs: list[tuple[Output, Array | list[list[str]]]] = []
    for spec in specs:
        value: Any = by_name[spec.name]
        if spec.classes:
            value = classes(value, spec.classes, model.labels, spec.name)
        pairs.append((spec, value))
    return pairs


def check_outputs(outputs: Sequence[Output], model: ServedModel) -> None:
    """Refuse outputs that a model does not have, before it computes them."""
    offered = [port.name for port in model.outputs]
    names = [spec.name for spec in outputs]
    for name in names:
        if name not in offered:
            raise bad(
                f"the model has no output '{name[:60]}'; it has {', '.join(offered)}"
            )
    if len(set(names)) != len(names):
        raise bad("an output is asked for twice")


def parameter(
    parameters: Mapping[str, Any], name: str, kind: type, default: Any
) -> Any:
    """Return a parameter of a type; raises Refusal for one of another type."""
    value = parameters.get(name, default)
    # A boolean is an int to Python, and no number to a client.
    if value is not default and type(value) is not kind:
        raise bad(f"the parameter '{name}' is no {kind.__name__}")
    return value


def timeout_s(parameters: Mapping[str, Any]) -> float:
    """Return how long a client waits, in seconds; infinite where it does not say it."""
    value = parameter(parameters, TIMEOUT, int, 0)
    if value < 0:
        raise bad(f"the parameter '{TIMEOUT}' is a number of microseconds from 0")
    return value / 1e6 if value else math.inf


def since_s(parameters: Mapping[str, Any]) -> float | None:
    """Return when a request came, if its client asks how long it was here; None: it does not."""
    if parameter(parameters, TIMING, bool, False):
        return time.perf_counter()
    return None
