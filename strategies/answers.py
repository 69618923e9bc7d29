"""What the verbs of a strategy must answer: a wrong answer is one line, and no traceback."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flwr.app import ArrayRecord, Message, MetricRecord

from fedlearn.errors import RunError

# A new model and its metrics; None twice: there is no new model.
Aggregate = tuple[ArrayRecord | None, MetricRecord | None]

_MESSAGES = "an iterable of Messages"
_AGGREGATE = "a tuple (ArrayRecord or None, MetricRecord or None)"


def messages(verb: str, number: int, answer: Any) -> list[Message]:
    """Return the messages that a verb made; raises RunError for anything else.

    verb: such as "FedAvg.configure_train". number: of the round.
    """
    if not isinstance(answer, Iterable):
        raise _wrong(verb, number, _kind(answer), _MESSAGES)
    # A generator is run here, where what it raises is the strategy's.
    made_of = list(answer)
    for item in made_of:
        if not isinstance(item, Message):
            raise _wrong(verb, number, f"an iterable of {_kind(item)}", _MESSAGES)
    return made_of


def aggregate(verb: str, number: int, answer: Any) -> Aggregate:
    """Return the model and metrics that a verb made; raises RunError for anything else."""
    if not isinstance(answer, tuple) or len(answer) != 2:
        raise _wrong(verb, number, _kind(answer), _AGGREGATE)
    arrays, metrics = answer
    right_arrays = arrays is None or isinstance(arrays, ArrayRecord)
    if right_arrays and (metrics is None or isinstance(metrics, MetricRecord)):
        return arrays, metrics
    kinds = f"a tuple ({_kind(arrays)}, {_kind(metrics)})"
    raise _wrong(verb, number, kinds, _AGGREGATE)


def metrics(verb: str, number: int, answer: Any) -> MetricRecord | None:
    """Return the metrics that a verb made; raises RunError for anything else."""
    if answer is None or isinstance(answer, MetricRecord):
        return answer
    raise _wrong(verb, number, _kind(answer), "a MetricRecord or None")


def _kind(value: Any) -> str:
    """Return what a value is, as a reader of Python says it."""
    if value is None:
        return "None"
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    return type(value).__name__


def _wrong(verb: str, number: int, returned: str, right: str) -> RunError:
    forgotten = ""
    if returned == "None":
        forgotten = "; a 'return' may be missing"
    return RunError(
        f"{verb} returned {returned} in round {number}; it must return {right}{forgotten}"
    )
