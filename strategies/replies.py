"""What clients' replies report, as a strategy needs it."""

from __future__ import annotations

from collections.abc import Sequence

from flwr.app import Message

from fedlearn.flower import EXAMPLES


def consistent(replies: Sequence[Message]) -> tuple[list[Message], dict[int, str]]:
    """Return the replies that report the metrics that most of them report.

    Returns the others' clients too, with the reason. Flower's strategies fail when one
    differs.
    """
    names = [_metric_names(reply) for reply in replies]
    # Of two that are equally common the later in the alphabet: not the first to arrive.
    common = max(set(names), key=lambda key: (names.count(key), key), default=())
    alike = []
    reasons = {}
    for reply, reported in zip(replies, names, strict=True):
        if reported == common:
            alike.append(reply)
            continue
        odd = ", ".join(sorted(set(reported) ^ set(common)))
        client = reply.metadata.src_node_id
        reasons[client] = f"its metrics differ from the other clients': {odd}"
    return alike, reasons


def examples_of(reply: Message) -> float:
    """Return how many samples a client evaluated on; 1 where it does not report that."""
    for metrics in reply.content.metric_records.values():
        if EXAMPLES in metrics:
            return float(metrics[EXAMPLES])  # type: ignore[arg-type]
    return 1.0


def _metric_names(reply: Message) -> tuple[str, ...]:
    """Return the names of all metrics of a reply, sorted; of a list with its length."""
    names = []
    for metrics in reply.content.metric_records.values():
        for name, value in metrics.items():
            if isinstance(value, list):
                name = f"{name}[{len(value)}]"
            names.append(name)
    return tuple(sorted(names))
