"""What clients' evaluations come to, each client counting alike."""

from __future__ import annotations

import numpy as np
from flwr.app import MetricRecord


def summarise(reports: list[MetricRecord]) -> dict[str, float]:
    """Return what clients' evaluations come to, each client counting alike.

    clients: how many; accuracy: their mean; worst10: the mean of the worst 10 % (at least
    one client); spread: the standard deviation of the accuracies; loss: the mean. What
    clients do not report, or is not finite, is left out.
    """
    summary: dict[str, float] = {"clients": len(reports)}
    accuracies = np.sort(_finite(reports, "accuracy"))
    if accuracies.size:
        count = max(1, round(0.1 * accuracies.size))
        worst = accuracies[:count]
        summary["accuracy"] = float(accuracies.mean())
        summary["worst10"] = float(worst.mean())
        summary["spread"] = float(accuracies.std())
    losses = _finite(reports, "loss")
    if losses:
        summary["loss"] = float(np.mean(losses))
    return summary


def _finite(reports: list[MetricRecord], name: str) -> list[float]:
    """Return the finite values of a metric, of the clients that report it."""
    values = [
        float(report[name])  # type: ignore[arg-type]
        for report in reports
        if name in report
    ]
    return [value for value in values if np.isfinite(value)]
