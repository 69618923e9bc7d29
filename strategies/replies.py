"""What clients' replies report, as a strategy needs it.

Clients may report different metrics: one of them has no use for an AUC, or another version
of the app. That costs the metric, and never the update.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from flwr.app import Message, MetricRecord
from flwr.serverapp.exception import InconsistentMessageReplies
from flwr.serverapp.strategy import Strategy

from fedlearn.flower import EXAMPLES
from fedlearn.strategies.means import Means

# Arguments of Flower's strategies that name a metric which they cannot do without.
_KEYS = ("weighted_by_key", "train_loss_key")


def usable(
    strategy: Strategy, replies: Sequence[Message], train: bool = True
) -> tuple[list[Message], dict[int, str]]:
    """Return the replies that a strategy can calculate with, and why the others are none.

    train: replies to training, which need all metrics that the strategy names.
    """
    asking = getattr(strategy, "strategy", strategy)
    good = []
    reasons = {}
    for reply in replies:
        metrics = metrics_of(reply)
        missing = ""
        for key in _KEYS if train else _KEYS[:1]:
            name = getattr(asking, key, None)
            if isinstance(name, str) and not _is_number(metrics.get(name)):
                missing = f"it reports no number '{name}' ({key})"
        if missing:
            reasons[reply.metadata.src_node_id] = missing
        else:
            good.append(reply)
    return good, reasons


def metrics_of(reply: Message) -> dict[str, Any]:
    """Return all metrics of a reply; the first of a name counts."""
    metrics: dict[str, Any] = {}
    for record in reply.content.metric_records.values():
        metrics = {**record, **metrics}
    return metrics


def means_of(replies: Sequence[Message], key: str = EXAMPLES) -> MetricRecord:
    """Return the mean of each metric over the replies that report it, weighted by a key."""
    means = Means()
    for reply in replies:
        metrics = metrics_of(reply)
        weight = metrics.get(key, 1)
        if _is_number(weight):
            means.add_metrics(metrics, weight)
    return means.record()


def examples_of(reply: Message) -> float:
    """Return how many samples a client evaluated on; 1 where it does not report that."""
    examples = metrics_of(reply).get(EXAMPLES, 1.0)
    return float(examples) if _is_number(examples) else 1.0


def unify(replies: Sequence[Message]) -> list[str]:
    """Take away the metrics that not all replies report, and return their names.

    Lists of different lengths are different metrics: Flower's strategies add them up.
    """
    counts = Counter(name for reply in replies for name in _kinds(reply))
    odd = [name for name, count in counts.items() if count < len(replies)]
    if odd:
        for reply in replies:
            _take_away(reply, set(odd))
    return sorted({metric for _, metric, _ in odd})


def is_flowers(strategy: Strategy, verb: str) -> bool:
    """Return whether a verb is Flower's own code, which fails where metrics differ."""
    module = getattr(getattr(type(strategy), verb, None), "__module__", "")
    return module.split(".")[0] == "flwr"


def is_about_metrics(error: BaseException) -> bool:
    """Return whether a strategy's error says that the replies differ."""
    return isinstance(error.__cause__, InconsistentMessageReplies)


def recorded(
    own: Mapping[str, Any] | None, means: Mapping[str, Any], known: Sequence[str]
) -> dict[str, Any]:
    """Return what is recorded of clients' metrics.

    own: what the strategy made of them; it counts before our means. known: names that
    the record has elsewhere.
    """
    values = {**means, **(own or {})}
    return {name: value for name, value in values.items() if name not in known}


def _kinds(reply: Message) -> list[tuple[str, str, int]]:
    """Return record, name and length of each metric; 0: it is no list."""
    return [
        (record, name, 1 + len(value) if isinstance(value, list) else 0)
        for record, metrics in reply.content.metric_records.items()
        for name, value in metrics.items()
    ]


def _take_away(reply: Message, odd: set[tuple[str, str, int]]) -> None:
    for record, name, length in _kinds(reply):
        if (record, name, length) in odd:
            del reply.content.metric_records[record][name]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)
