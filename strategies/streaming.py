"""What our strategies share: a cohort, a plan for it, a running sum of its updates, one step of the server.

They are plain Flower strategies (`flwr.serverapp.strategy.Strategy`): `configure_train` and `aggregate_train` have
Flower's meaning. Unlike Flower's own they take the replies one by one and keep none of them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from math import fsum
from typing import Any

import numpy as np
from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray

from fedlearn.arrays import Layout, State
from fedlearn.errors import ConfigError
from fedlearn.flower import EXAMPLES, Received, for_strategy, to_state, update_of
from fedlearn.strategies.aggregate import BLOCK, ExactSum, MedianOfMeans
from fedlearn.strategies.cohorts import cohort_size, uniform

Sum = ExactSum | MedianOfMeans


class Streaming(Strategy):
    """A strategy that adds each update as it comes and steps once.

    layout: of the model; seed: of the experiment; clients: how many there are; min_clients: updates below which a
    round gives nothing. These four come from the experiment, not from ``[strategy]``.
    fraction_train or clients_per_round: the cohort. fraction_evaluate: share of clients that evaluate each round.
    server_lr, server_momentum: the step x += server_lr * v, v = server_momentum * v + mean update, on what is trained;
    buffers (BatchNorm's statistics) take their plain mean.
    """

    takes_payloads = True

    def __init__(
        self,
        layout: Layout,
        seed: int,
        clients: int,
        min_clients: int,
        fraction_train: float,
        clients_per_round: int,
        fraction_evaluate: float,
        server_lr: float,
        server_momentum: float,
    ) -> None:
        """Check the arguments; raises ConfigError."""
        if server_lr <= 0 or not 0 <= server_momentum < 1:
            raise ConfigError(
                f"server_lr = {server_lr:g}, server_momentum = {server_momentum:g}: the first is above 0, the second in [0, 1)"
            )
        self.layout, self.seed, self.min_clients = layout, seed, min_clients
        self.cohort = cohort_size(clients, fraction_train, clients_per_round)
        if min_clients > self.cohort:
            raise ConfigError(
                f"a round has {self.cohort} clients, but experiment.min_clients = {min_clients} must answer; lower it or "
                "raise fraction_train or clients_per_round"
            )
        self.fraction_evaluate = fraction_evaluate
        self.server_lr, self.server_momentum = server_lr, server_momentum
        self.velocity = np.zeros(layout.floats if server_momentum else 0, np.float32)
        self.current: State | None = None
        self.places: dict[
            int, int
        ] = {}  # this round's clients → their place in the sorted cohort

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return one message to each client of the round's cohort."""
        attempt: Any = config.get("attempt", 0)
        nodes = _nodes(grid)
        cohort = uniform(
            nodes, min(self.cohort, len(nodes)), self.seed, server_round, attempt
        )
        self.current = to_state(self.layout, arrays)
        self.places = {client: place for place, client in enumerate(cohort)}
        sent = ConfigRecord({**config, **self.asks(), "server-round": server_round})
        return self._messages(cohort, arrays, sent, MessageType.TRAIN)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Add the updates one by one, step, and return the new model; None when too few came."""
        assert self.current is not None
        running = self.start_sum()
        losses: list[tuple[float | None, int]] = []
        for reply in replies:
            if not reply.has_error():
                received = update_of(reply, self.layout, self.current)
                running.add(
                    received.difference,
                    self.weight(received),
                    self.places[received.client],
                    received.summed,
                )
                losses.append((received.header.train_loss, received.header.examples))
        if running.count < self.min_clients:
            return None, None
        floats, integers = running.mean()
        new = State(self._step(floats), self.current.integers + integers)
        self.current, self.places = (
            None,
            {},
        )  # nothing of a round is left for the next one, or for a checkpoint
        metrics = MetricRecord({EXAMPLES: sum(n for _, n in losses)})
        told = [
            (loss, n) for loss, n in losses if loss is not None
        ]  # a ClientApp need not report one
        if told:
            metrics["train_loss"] = fsum(loss * n for loss, n in told) / sum(
                n for _, n in told
            )
        return for_strategy(self.layout, new), metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return one message to each client that evaluates this round; none unless asked for."""
        nodes = _nodes(grid)
        size = min(len(nodes), round(self.fraction_evaluate * len(nodes)))
        if not size:
            return []
        chosen = uniform(nodes, size, self.seed, server_round, -1)
        return self._messages(
            chosen,
            arrays,
            ConfigRecord({**config, "server-round": server_round}),
            MessageType.EVALUATE,
        )

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Return nothing: how clients' evaluations are summed up is the same for every strategy (see the guard)."""
        return None

    def summary(self) -> None:
        """Log nothing; the run's own progress says what is running."""

    def start_sum(self) -> Sum:
        """Return the sum that this round's updates are added to."""
        return ExactSum(self.layout.floats, self.layout.integers, self.cohort)

    def step_size(self) -> float:
        """Return what the mean update is multiplied with."""
        return self.server_lr

    @abstractmethod
    def asks(self) -> dict[str, int | float | str]:
        """Return what this algorithm changes in the plan of its clients."""

    @abstractmethod
    def weight(self, received: Received) -> int:
        """Return the weight of an update in the sum."""

    def _step(self, mean: NDArray[np.float64]) -> NDArray[np.float32]:
        assert self.current is not None
        with np.errstate(
            over="ignore", invalid="ignore"
        ):  # the guard refuses a model that is not finite
            return self._moved(mean)

    def _moved(self, mean: NDArray[np.float64]) -> NDArray[np.float32]:
        assert self.current is not None
        before, after, size = (
            self.current.floats,
            np.empty(mean.size, np.float32),
            self.step_size(),
        )
        plain = isinstance(self.layout.trained_at, slice)
        velocity = np.empty_like(
            self.velocity
        )  # a new one: the old one may be on its way to a checkpoint
        for start in range(0, mean.size, BLOCK):
            part = slice(start, start + BLOCK)
            step = mean[part]
            if self.server_momentum:
                velocity[part] = (
                    self.server_momentum * self.velocity[part].astype(np.float64) + step
                )
                step = velocity[part].astype(np.float64)
            # Buffers take their plain mean: momentum would carry a running variance below zero.
            moved = (
                size * step
                if plain
                else np.where(self.layout.is_trained[part], size * step, mean[part])
            )
            after[part] = before[part] + moved
        self.velocity = velocity
        return after

    def _messages(
        self, nodes: list[int], arrays: ArrayRecord, config: ConfigRecord, kind: str
    ) -> list[Message]:
        content = RecordDict({"arrays": arrays, "config": config})
        return [
            Message(content=content, message_type=kind, dst_node_id=node)
            for node in nodes
        ]


def _nodes(grid: Grid) -> Sequence[int]:
    """Return the nodes as a sequence; a simulation's, a range, as it is."""
    found = grid.get_node_ids()
    return found if isinstance(found, range) else list(found)
