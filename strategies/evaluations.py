"""What clients' evaluations come to, each client counting alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from flwr.app import Message, MetricRecord

from fedlearn.errors import StrategyError
from fedlearn.flower import EXAMPLES
from fedlearn.strategies.notes import Notes
from fedlearn.strategies.replies import (
    examples_of,
    is_about_metrics,
    is_flowers,
    means_of,
    metrics_of,
    recorded,
    unify,
    usable,
)
from fedlearn.strategies.sparing import spare
from fedlearn.strategies.verbs import Verbs

# What `summarise` has of clients' reports, and the number of samples behind them.
_SUMMARISED = ("accuracy", "loss", EXAMPLES)


class Evaluations:
    """The evaluations of one run: a strategy's verbs for them, and what is recorded.

    summary: of this round, see `summarise`; None without any. metrics: what is recorded
    beside it.
    """

    def __init__(
        self, verbs: Verbs, evaluates: Callable[[int], bool], notes: Notes
    ) -> None:
        """Take the strategy's verbs. evaluates: rounds in which clients may evaluate."""
        self.verbs = verbs
        self.strategy = verbs.strategy
        self.evaluates = evaluates
        self.notes = notes
        self.summary: dict[str, float] | None = None
        self.metrics: dict[str, Any] = {}
        self._messages = 0

    def configure(self, number: int, attempt: int, *arguments: Any) -> list[Message]:
        """Return the messages to the clients that evaluate; none in other rounds."""
        self.summary = None
        self.metrics = {}
        if not self.evaluates(number):
            return []
        messages: list[Message] = self.verbs.call(
            "configure_evaluate", number, attempt, *arguments
        )
        self._messages = len(messages)
        if not messages:
            name = self.verbs.name
            self.notes.once(
                f"evaluate.clients = true, but {name}.configure_evaluate asks no client; "
                "look at its fraction_evaluate"
            )
        return messages

    def aggregate(
        self, number: int, attempt: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Return the strategy's own sum of the clients' evaluations; note ours too."""
        # By client: the order of arrival must not reach the strategy.
        ordered = sorted(replies, key=lambda reply: reply.metadata.src_node_id)
        answered = [reply for reply in ordered if not reply.has_error()]
        # A client without held-out samples has nothing to report.
        scored = [reply for reply in answered if examples_of(reply) > 0]
        good, reasons = usable(self.strategy, scored, train=False)
        if not ordered:
            return None
        failed = len(ordered) - len(good)
        self.summary = {"failed": failed} | summarise(list(map(metrics_of, good)))
        if not good:
            self._note_failure(number, ordered, reasons)
            return None
        means = means_of(good)
        self._note_names(number, good)
        metrics = self._sparing(number, attempt, good)
        beside = {k: v for k, v in means.items() if k not in _SUMMARISED}
        self.metrics = recorded(metrics, beside, (EXAMPLES,))
        return metrics

    def _sparing(
        self, number: int, attempt: int, replies: list[Message]
    ) -> MetricRecord | None:
        """Return the strategy's own sum; without the one reply on which it fails."""
        if is_flowers(self.strategy, "aggregate_evaluate"):
            unify(replies)

        # In a tuple: no metrics at all are a result too.
        def call(some: list[Message]) -> tuple[MetricRecord | None]:
            answer: MetricRecord | None = self.verbs.call(
                "aggregate_evaluate", number, attempt, some
            )
            return (answer,)

        def call_alike(some: list[Message]) -> tuple[MetricRecord | None]:
            try:
                return call(some)
            except StrategyError as error:
                if not (is_about_metrics(error) and unify(some)):
                    raise
            return call(some)

        (metrics,), odd, reason = spare(
            call_alike, self.strategy, replies, 0, lambda metrics: True
        )
        for reply in odd:
            client = reply.metadata.src_node_id
            self.notes.say(f"round {number}: client {client}'s evaluation: {reason}")
        return metrics

    def _note_failure(
        self, number: int, replies: list[Message], reasons: dict[int, str]
    ) -> None:
        """Tell that no client's evaluation can be used, and why the first one's cannot."""
        first = replies[0]
        client = first.metadata.src_node_id
        reason = reasons.get(client, "it has no samples to evaluate on")
        if first.has_error():
            reason = str(first.error.reason)
        self.notes.once(
            f"round {number}: none of {len(replies)} clients could evaluate; "
            f"client {client}: {reason}",
            "evaluation fails",
        )

    def _note_names(self, number: int, replies: list[Message]) -> None:
        names = {name for reply in replies for name in metrics_of(reply)}
        if names and not names & {"loss", "accuracy"}:
            self.notes.once(
                f"round {number}: clients' evaluations report no 'loss' and no "
                "'accuracy'; metrics.jsonl has what they report under 'metrics'",
                "names of evaluations",
            )


def summarise(reports: list[dict[str, Any]]) -> dict[str, float]:
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


def _finite(reports: list[dict[str, Any]], name: str) -> list[float]:
    """Return the finite values of a metric, of the clients that report it as a number."""
    values = [report.get(name) for report in reports]
    numbers = [float(value) for value in values if isinstance(value, int | float)]
    return [number for number in numbers if np.isfinite(number)]
