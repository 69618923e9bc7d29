"""What a Flower ClientApp reports beside its arrays: read alike in simulation and for real.

An app may call its metrics what it likes. Two names mean something here: the examples that
its update stands for, which are its weight, and its training loss.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fedlearn.errors import ClientError
from fedlearn.wire import Metric
from fedlearn.wire.header import MOST_METRIC

EXAMPLES = "num-examples"
LOSS = "train_loss"

# A reply with one MetricRecord of this name is the usual one, whose name need not travel.
USUAL = "metrics"

Records = Mapping[str, Mapping[str, Any]]
"""MetricRecord → its metrics."""


@dataclass(frozen=True)
class Report:
    """What the metrics of an update say.

    examples: whole; a fraction is rounded up, and stands as it is among the metrics.
    metrics: those of a usual reply. records: of any other reply, complete.
    """

    examples: int
    train_loss: float | None
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    records: Mapping[str, Mapping[str, Metric]] = field(default_factory=dict)


def read(client: int, records: Records) -> Report:
    """Return the report of a client's reply; raises ClientError for examples that are none."""
    number = _first(records, EXAMPLES, 0)
    examples = _examples(client, number)
    loss = _first(records, LOSS, None)
    train_loss = float(loss) if is_finite(loss) else None
    if set(records) - {USUAL}:
        every = {name: _bounded(metrics) for name, metrics in records.items()}
        return Report(examples, train_loss, records=every)
    metrics = _bounded(records.get(USUAL, {}))
    # They have fields of their own in a payload's header.
    if number == examples:
        metrics.pop(EXAMPLES, None)
    if train_loss is not None:
        metrics.pop(LOSS, None)
    return Report(examples, train_loss, metrics)


def flat(records: Records) -> dict[str, Any]:
    """Return the metrics of all records in one: of an evaluation; the first of a name counts."""
    metrics: dict[str, Any] = {}
    for record in records.values():
        metrics = {**record, **metrics}
    return metrics


def is_finite(value: Any) -> bool:
    """Return whether a value is one finite number."""
    # To Python, true is a number too.
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value)


def _first(records: Records, name: str, default: Any) -> Any:
    """Return a metric of the first record that has it."""
    for metrics in records.values():
        if name in metrics:
            return metrics[name]
    return default


def _examples(client: int, number: Any) -> int:
    if not is_finite(number) or number < 0:
        raise ClientError(
            f"client {client} reports {EXAMPLES} = {number!r}; "
            "the weight of its update is one number above 0"
        )
    rounded: int = math.ceil(number)
    return rounded


def _bounded(metrics: Mapping[str, Any]) -> dict[str, Metric]:
    """Return metrics that a payload can carry; what is too large becomes infinite.

    Whoever receives it leaves it out, and says so.
    """
    return {name: _within(value) for name, value in metrics.items()}


def _within(value: Any) -> Metric:
    values = value if isinstance(value, list) else [value]
    if any(abs(number) > MOST_METRIC for number in values):
        return math.inf
    return value  # type: ignore[no-any-return]
