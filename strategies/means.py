"""Means of what clients report, weighted by their examples, exact in any order."""

from __future__ import annotations

from collections.abc import Mapping
from math import fsum
from typing import Any

from flwr.app import MetricRecord

from fedlearn.flower import EXAMPLES, Received

LOSS = "train_loss"

# The number of clients whose training loss is left out of the mean; see `Means`.
ODD_LOSSES = "odd_train_losses"

# A loss is odd beyond so many times the upper quartile of the losses, and beyond this
# value: honest losses of unlike clients stay far below both. One liar cannot move the
# quartile of four.
ODD_TIMES = 1000.0
ODD_ABOVE = 100.0
LEAST_LOSSES = 4


class Means:
    """The mean of each metric over the clients that report it; lists are left out.

    A training loss that is odd among those of its round is left out and counted: one client
    could otherwise make the recorded loss any number.
    """

    def __init__(self) -> None:
        """Begin without reports."""
        self._weights: list[float] = []
        # Name → value and weight of each client that reports it.
        self._values: dict[str, list[tuple[float, float]]] = {}

    def add(self, received: Received) -> None:
        """Add what a client's update reports."""
        header = received.header
        metrics: dict[str, Any] = {**header.metrics}
        for record in header.records.values():
            metrics |= record
        # The one that was checked. A ClientApp need not report a loss.
        metrics.pop(LOSS, None)
        if header.train_loss is not None:
            metrics[LOSS] = header.train_loss
        self.add_metrics(metrics, received.examples)

    def add_metrics(self, metrics: Mapping[str, Any], weight: float) -> None:
        """Add a client's metrics with its weight."""
        self._weights.append(weight)
        for name, value in metrics.items():
            if name != EXAMPLES and isinstance(value, int | float):
                self._values.setdefault(name, []).append((value, weight))

    def record(self) -> MetricRecord:
        """Return the means, and the sum of the weights as the number of examples."""
        # Whole numbers stay whole.
        is_whole = all(isinstance(weight, int) for weight in self._weights)
        total = sum(self._weights) if is_whole else fsum(self._weights)
        record = MetricRecord({EXAMPLES: total})
        losses = self._values.get(LOSS, [])
        sound_losses = _without_odd(losses)
        if len(sound_losses) < len(losses):
            record[ODD_LOSSES] = len(losses) - len(sound_losses)
        for name, pairs in {**self._values, LOSS: sound_losses}.items():
            weights = fsum(weight for _, weight in pairs)
            if weights:
                record[name] = fsum(value * weight for value, weight in pairs) / weights
        return record


def _without_odd(losses: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the losses with their weights, without those that are odd among them."""
    if len(losses) < LEAST_LOSSES:
        return losses
    ordered = sorted(abs(loss) for loss, _ in losses)
    quartile = ordered[3 * (len(ordered) - 1) // 4]
    most = max(ODD_ABOVE, ODD_TIMES * quartile)
    return [(loss, weight) for loss, weight in losses if abs(loss) <= most]
