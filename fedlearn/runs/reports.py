"""The one reader of what an update's header reports: its weight, and its metrics.

A client says all of it. What was checked stands under its own name, whatever metrics the
client has under that name; a metric that is no finite number costs itself alone.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from flwr.app import MetricRecord
from flwr.serverapp.strategy import Strategy

from fedlearn.errors import PayloadError
from fedlearn.flower import EXAMPLES
from fedlearn.strategies.aggregate import check_weight
from fedlearn.strategies.guard import Guarded
from fedlearn.strategies.means import LOSS
from fedlearn.wire import Header, Metric

# The record of a usual reply.
METRICS = "metrics"


def weight_key(strategy: Strategy) -> str:
    """Return the metric by which a strategy weighs: Flower's have an argument for it."""
    asking = getattr(strategy, "strategy", strategy)
    key = getattr(asking, "weighted_by_key", EXAMPLES)
    return key if isinstance(key, str) else EXAMPLES


def weight(header: Header, key: str) -> float:
    """Return the weight of an update under a key.

    It is one finite number above 0, in the range of the exact sum. Raises PayloadError.
    """
    value = _weight(header, key)
    if value == 0 and key == EXAMPLES:
        raise PayloadError("the update reports 0 examples; it would weigh nothing")
    if not _is_number(value) or not value > 0:
        raise PayloadError(
            f"the update reports {key} = {value!r}, by which the strategy weighs "
            "(weighted_by_key); it is one number above 0"
        )
    check_weight(value)
    return float(value) if value % 1 else int(value)


def with_weight(header: Header, key: str, value: float) -> Header:
    """Return a header that reports another weight under a key, in each of its records."""
    if key == EXAMPLES:
        # A client's own metric of that name no longer agrees with it, and counts no more.
        return replace(header, examples=int(value))
    metrics = _with_value(header.metrics, key, value)
    every = {
        name: _with_value(values, key, value) for name, values in header.records.items()
    }
    return replace(header, metrics=metrics, records=every)


def _with_value(
    metrics: Mapping[str, Metric], key: str, value: float
) -> dict[str, Metric]:
    return {**metrics, key: value} if key in metrics else dict(metrics)


def records(header: Header) -> dict[str, MetricRecord]:
    """Return the MetricRecords of a reply as the strategy gets them."""
    checked: dict[str, Metric] = {}
    # An app whose strategy weighs by another metric need not report any.
    if header.examples:
        examples = _weight(header, EXAMPLES)
        checked[EXAMPLES] = float(examples) if examples % 1 else int(examples)
    if header.train_loss is not None:
        checked[LOSS] = header.train_loss
    if not header.records:
        # What was checked comes first, and no metric of a client's takes its place.
        return {METRICS: MetricRecord({**checked, **header.metrics, **checked})}
    every = {}
    for name, metrics in header.records.items():
        values = {key: checked.get(key, value) for key, value in metrics.items()}
        every[name] = MetricRecord(values)
    return every


def sound(header: Header) -> Header:
    """Return a header without metrics that cannot be what their names say.

    A training loss is one number, and so are examples: the ones that were checked. Others
    of these names are noted as unusable.
    """
    unusable = list(header.unusable)
    metrics = dict(header.metrics)
    examples = metrics.get(EXAMPLES)
    if examples is not None and not _rounds_up_to(examples, header.examples):
        del metrics[EXAMPLES]
        unusable.append(EXAMPLES)
    # What is a number has a field of its own.
    if LOSS in metrics:
        del metrics[LOSS]
        unusable.append(LOSS)
    if len(unusable) == len(header.unusable):
        return header
    return replace(header, metrics=metrics, unusable=tuple(unusable))


def finite(metrics: Mapping[str, Any]) -> tuple[dict[str, Metric], list[str]]:
    """Return an evaluation's metrics, and the names of those that are no finite numbers."""
    good = {}
    unusable = []
    for name, value in metrics.items():
        values = value if isinstance(value, list) else [value]
        if all(map(_is_number, values)):
            good[name] = value
        else:
            unusable.append(name)
    return good, unusable


def reported(
    round: int, unusable: Mapping[str, Collection[int]], guard: Guarded
) -> dict[str, dict[str, Any]] | None:
    """Return what a round's line has of metrics beside losses and accuracies; None: nothing.

    unusable: a metric that was no finite number → its clients; each is told once.
    """
    counts = {name: len(clients) for name, clients in unusable.items()}
    for name, count in counts.items():
        guard.notes.once(
            f"round {round}: the metric '{name}' of {count} clients is no finite number, "
            "or not the one that was checked; it is left out, and their updates count",
            f"unusable {name}",
        )
    metrics = {
        "train": guard.updates.metrics,
        "evaluate": guard.evaluations.metrics,
        "unusable": counts,
    }
    return {name: values for name, values in metrics.items() if values} or None


def _weight(header: Header, key: str) -> Any:
    """Return what the header says under a key: for examples, what was checked."""
    for metrics in (header.metrics, *header.records.values()):
        if key not in metrics:
            continue
        value = metrics[key]
        # A fraction of an example travels as a metric beside the number that is checked.
        if key != EXAMPLES or _rounds_up_to(value, header.examples):
            return value
    return header.examples if key == EXAMPLES else None


def _rounds_up_to(value: Any, examples: int) -> bool:
    return _is_number(value) and math.ceil(value) == examples and value > 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
