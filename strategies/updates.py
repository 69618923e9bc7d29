"""`Updates`: a strategy's aggregation of one round's replies, as the guard does it.

Legend: P floats of the model's layout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord

from fedlearn.arrays import Layout
from fedlearn.errors import StrategyError
from fedlearn.flower import (
    EXAMPLES,
    for_strategy,
    is_held,
    is_part,
    to_state,
    with_same_arrays,
)
from fedlearn.strategies.answers import Aggregate
from fedlearn.strategies.cohorts import takes_payloads
from fedlearn.strategies.means import LOSS, ODD_LOSSES
from fedlearn.strategies.notes import Notes
from fedlearn.strategies.replies import (
    is_about_metrics,
    is_flowers,
    means_of,
    recorded,
    unify,
    usable,
)
from fedlearn.strategies.sparing import spare
from fedlearn.strategies.verbs import Verbs


class Updates:
    """What a strategy makes of clients' updates.

    replies: of the last attempt, all. usable: of those, what the strategy could take.
    train_loss: of the last round; None where clients report none. metrics: what else is
    recorded of it.
    """

    def __init__(
        self, verbs: Verbs, layout: Layout, min_clients: int, notes: Notes
    ) -> None:
        """Take the strategy's verbs, and what its model is."""
        # The model that the round began from: a strategy may change a part of it.
        self.before: ArrayRecord | None = None
        # Whether the strategy chose to make no model, of enough updates.
        self.is_waiting = False
        # Of a verb of the user's, no model is an answer; Flower's and ours have failed.
        name = "aggregate_train"
        self._may_wait = not (
            takes_payloads(verbs.strategy) or is_flowers(verbs.strategy, name)
        )
        self.verbs = verbs
        self.strategy = verbs.strategy
        self.layout = layout
        self.min_clients = min_clients
        self.notes = notes
        self.replies = 0
        self.usable = 0
        self.train_loss: float | None = None
        self.metrics: dict[str, Any] = {}
        self._leave: Callable[[int, str], None]

    def aggregate(
        self,
        number: int,
        attempt: int,
        replies: Iterable[Message],
        leave_out: Callable[[int, str], None],
    ) -> Aggregate:
        """Return the strategy's new model of the sound replies, and its metrics.

        leave_out: called with a client whose update is not used, and why. Raises
        StrategyError.
        """
        self._leave = leave_out
        self.is_waiting = False
        self.usable = 0
        self.replies = 0
        sound: Iterable[Message] = self._sound_replies(replies)
        if not takes_payloads(self.strategy):
            good = self._weighable(list(sound))
            # Those without a weight are not usable after all.
            self.usable = len(good)
            if self.usable < self.min_clients:
                return None, None
            return self._sparing(number, attempt, good)
        answer = self.verbs.call("aggregate_train", number, attempt, sound)
        aggregate = self._sound_aggregate(number, answer)
        for client, reason in getattr(self.strategy, "left_out", {}).items():
            self._leave_out(client, reason)
        self._record(number, aggregate[1], MetricRecord())
        return aggregate

    def _sparing(self, number: int, attempt: int, replies: list[Message]) -> Aggregate:
        """Return the strategy's new model; without the one reply on which it fails."""
        means = means_of(replies)
        if is_flowers(self.strategy, "aggregate_train"):
            self._unify(number, replies)

        def call(some: list[Message]) -> Aggregate:
            answer = self.verbs.call("aggregate_train", number, attempt, some)
            return self._sound_aggregate(number, answer)

        def call_alike(some: list[Message]) -> Aggregate:
            try:
                return call(some)
            except StrategyError as error:
                if not (is_about_metrics(error) and self._unify(number, some)):
                    raise
            return call(some)

        aggregate, odd, reason = spare(
            call_alike,
            self.strategy,
            replies,
            self.min_clients,
            lambda new: new[0] is not None,
        )
        for reply in odd:
            self._leave_out(reply.metadata.src_node_id, reason)
        self.is_waiting = aggregate[0] is None and self._may_wait
        self._record(number, aggregate[1], means)
        return aggregate

    def _record(
        self, number: int, metrics: MetricRecord | None, means: MetricRecord
    ) -> None:
        """Note what is recorded of a round's metrics."""
        loss = _loss(metrics)
        # A strategy of Flower's takes the mean of all losses, the odd ones among them.
        is_ours = loss is None or ODD_LOSSES in means
        self.train_loss = _loss(means) if is_ours else loss
        odd = {**means, **(metrics or {})}.get(ODD_LOSSES)
        if odd:
            self.notes.once(
                f"round {number}: the training loss that {odd} clients report is far above "
                "the others'; it is left out of the mean, and their updates count",
                ODD_LOSSES,
            )
        self.metrics = recorded(metrics, means, (EXAMPLES, LOSS))

    def _unify(self, number: int, replies: list[Message]) -> bool:
        """Take away metrics that not all replies report; return whether there were any."""
        odd = unify(replies)
        for name in odd:
            self.notes.once(
                f"round {number}: not all clients report the metric '{name}'; "
                f"{self.verbs.name} gets what all report, and their updates count",
                f"metric {name}",
            )
        return bool(odd)

    def _weighable(self, replies: list[Message]) -> list[Message]:
        """Return the replies with all that the strategy calculates with."""
        good, reasons = usable(self.strategy, replies)
        for client, reason in reasons.items():
            self._leave(client, reason)
        return good

    def _leave_out(self, client: int, reason: str) -> None:
        self.usable -= 1
        self._leave(client, reason)

    def _sound_replies(self, replies: Iterable[Message]) -> Iterator[Message]:
        """Yield the replies without an error, and count all of them."""
        for reply in replies:
            self.replies += 1
            if not reply.has_error():
                self.usable += 1
                yield reply

    def _sound_aggregate(self, number: int, aggregate: Aggregate) -> Aggregate:
        """Return a new model in its layout's dtypes, and its metrics; see `sound`."""
        arrays, metrics = aggregate
        if arrays is None:
            return None, metrics if self._may_wait else None
        return self.sound(number, arrays), metrics

    def sound(self, number: int, arrays: ArrayRecord) -> ArrayRecord:
        """Return a model in its layout's dtypes.

        What the strategy made no arrays of stays as it was. Raises StrategyError if it is
        not finite.
        """
        arrays = self._whole(number, arrays)
        state = to_state(self.layout, arrays)
        if not np.isfinite(state.floats).all():
            raise StrategyError(
                f"round {number}: {self.verbs.name} made a model with NaN or "
                "infinite values; the last checkpoint is kept"
            )
        # Tensors that share their values may have been moved apart.
        tied = self.layout.tie(state)
        if tied is state and is_held(arrays):
            # Ours already: no copy of the model is needed.
            return arrays
        return for_strategy(self.layout, tied)

    def _whole(self, number: int, arrays: ArrayRecord) -> ArrayRecord:
        """Return a model of which the strategy has made a part, such as its first layers."""
        total = len(self.layout.entries)
        is_whole = is_held(arrays) or len(arrays) >= total
        if is_whole or self.before is None or not is_part(self.layout, arrays):
            return arrays
        self.notes.once(
            f"round {number}: {self.verbs.name} made {len(arrays)} of the model's {total} "
            "tensors; the others stay as they were",
            "a part of the model",
        )
        whole = with_same_arrays(self.before)
        for name, array in arrays.items():
            whole[name] = array
        return whole


def _loss(metrics: MetricRecord | None) -> float | None:
    """Return the training loss among a round's metrics; None where there is none."""
    loss = metrics.get(LOSS) if metrics else None
    # A user's strategy may report a list.
    if not isinstance(loss, int | float):
        return None
    return float(loss)
