"""What our strategies share: a cohort, a plan for it, a running sum of its updates, a step.

They are plain Flower strategies (`flwr.serverapp.strategy.Strategy`): `configure_train`
and `aggregate_train` have Flower's meaning. Unlike Flower's own strategies they add the
replies one by one and store none of them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

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
from fedlearn.flower import Received, for_strategy, to_state, update_of
from fedlearn.strategies.aggregate import BLOCK, ExactSum, MedianOfMeans
from fedlearn.strategies.cohorts import cohort_size, uniform
from fedlearn.strategies.means import Means
from fedlearn.strategies.plans import METHOD

# Where updates are added: both have `add`, `count` and `mean`.
Sum = ExactSum | MedianOfMeans

# What a strategy changes in the plan of its clients: see `fedlearn.strategies.plans`.
Request = dict[str, int | float | str]


# Without eq: two strategies are never "equal", and arrays do not compare to one bool.
# Without repr: that of a layout or a velocity would fill screens.
@dataclass(eq=False, repr=False)
class Streaming(Strategy):
    """A strategy that adds each update as it arrives and takes one step per round.

    The first four arguments come from the experiment, the others are keys of
    ``[strategy]``. An algorithm is a subclass: it adds fields, and defines `asks` and
    `weight`.

    layout: of the model. seed: of the experiment. clients: how many the experiment has.
    Raises ConfigError for arguments out of range.
    """

    layout: Layout
    seed: int
    clients: int
    # A round with fewer updates than this gives no model.
    min_clients: int = 1
    # The cohort, as a share of the clients or, unless 0, as a number of clients.
    fraction_train: float = 0.1
    clients_per_round: int = 0
    # The share of the clients that evaluate each round's model.
    fraction_evaluate: float = 0.0
    # The step x += server_lr * v with v = server_momentum * v + mean update. Buffers
    # (BatchNorm's statistics) are not trained: they take their plain mean.
    server_lr: float = 1.0
    server_momentum: float = 0.0
    # Numbers of client methods by name: see `fedlearn.clients.methods`.
    methods: Mapping[str, float] = field(default_factory=dict)

    # `fedlearn.strategies.cohorts.takes_payloads` reads this.
    takes_payloads: ClassVar[bool] = True
    # Left out of checkpoints: `cohort` holds what sizes decide, the guard what was left out.
    not_remembered: ClassVar[frozenset[str]] = frozenset(
        {"clients", "fraction_train", "clients_per_round", "methods", "left_out"}
    )

    def __post_init__(self) -> None:
        """Check the arguments and set up the state that rounds change."""
        if self.server_lr <= 0 or not 0 <= self.server_momentum < 1:
            raise ConfigError(
                f"server_lr = {self.server_lr:g}, "
                f"server_momentum = {self.server_momentum:g}: "
                "the first is above 0, the second in [0, 1)"
            )
        self.cohort = cohort_size(
            self.clients, self.fraction_train, self.clients_per_round
        )
        if self.min_clients > self.cohort:
            raise ConfigError(
                f"a round has {self.cohort} clients, but experiment.min_clients = "
                f"{self.min_clients} must answer; lower it or raise fraction_train or "
                "clients_per_round"
            )
        momentum_floats = self.layout.floats if self.server_momentum else 0
        self.velocity = np.zeros(momentum_floats, np.float32)
        # The model that this round's clients were sent; None between rounds.
        self.current: State | None = None
        # This round's clients, and the place of each in the sorted cohort.
        self.places: dict[int, int] = {}
        # The clients whose updates could not be added, and why; the guard tells.
        self.left_out: dict[int, str] = {}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return one message to each client of the round's cohort."""
        attempt: Any = config.get("attempt", 0)
        nodes = _nodes(grid)
        size = min(self.cohort, len(nodes))
        cohort = uniform(nodes, size, self.seed, server_round, attempt)
        self.current = to_state(self.layout, arrays)
        self.places = {client: place for place, client in enumerate(cohort)}
        request = ConfigRecord({**config, **self.asks(), "server-round": server_round})
        for name, number in self.methods.items():
            request[f"{METHOD}{name}"] = float(number)
        return _messages(cohort, arrays, request, MessageType.TRAIN)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Add the updates one by one, step, and return the new model and its metrics.

        Returns None twice for fewer than ``min_clients`` updates.
        """
        assert self.current is not None
        self.left_out = {}
        running = self.start_sum()
        means = Means()
        for reply in replies:
            if reply.has_error():
                continue
            try:
                received = update_of(reply, self.layout, self.current)
                place = self.places[received.client]
                weight = self.weight(received)
                running.add(received.difference, weight, place, received.summed)
            # A weight of a subclass may be anything; one update must not end the run.
            except Exception as error:
                reason = f"it cannot be added: {error}"
                self.left_out[reply.metadata.src_node_id] = reason
                continue
            means.add(received)
        if running.count < self.min_clients:
            return None, None
        floats, integers = running.mean()
        model = State(
            self._step(self.current.floats, floats), self.current.integers + integers
        )
        # A checkpoint follows: what served this round only has no place in it.
        self.current = None
        self.places = {}
        return for_strategy(self.layout, model), means.record()

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return one message to each client that evaluates; none unless asked for."""
        nodes = _nodes(grid)
        size = min(len(nodes), round(self.fraction_evaluate * len(nodes)))
        if not size:
            return []
        # Attempts count from 0, so that -1 draws other clients than any training.
        evaluators = uniform(nodes, size, self.seed, server_round, -1)
        request = ConfigRecord({**config, "server-round": server_round})
        return _messages(evaluators, arrays, request, MessageType.EVALUATE)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Return None: the guard sums up evaluations, alike for every strategy."""
        return None

    def summary(self) -> None:
        """Log nothing: the run's own progress shows what is running."""

    def start_sum(self) -> Sum:
        """Return the sum, at zero, that this round's updates are added to."""
        layout = self.layout
        return ExactSum(layout.floats, layout.integers, self.cohort)

    def step_size(self) -> float:
        """Return the factor of the step: server_lr."""
        return self.server_lr

    @abstractmethod
    def asks(self) -> Request:
        """Return what this algorithm changes in the plan of its clients."""

    @abstractmethod
    def weight(self, received: Received) -> float:
        """Return the weight of an update in the sum."""

    def _step(
        self, before: NDArray[np.float32], mean: NDArray[np.float64]
    ) -> NDArray[np.float32]:
        """Return the model (P,) after a step from ``before``; renews the velocity.

        mean: of the updates, (P,) float64.
        """
        after = np.empty(mean.size, np.float32)
        # A new array: the old velocity may be on its way to a checkpoint.
        velocity = np.empty_like(self.velocity)
        # Overflow is no warning here: the guard refuses a model that is not finite.
        with np.errstate(over="ignore", invalid="ignore"):
            for start in range(0, mean.size, BLOCK):
                block = slice(start, start + BLOCK)
                step = mean[block]
                if self.server_momentum:
                    carried = self.velocity[block].astype(np.float64)
                    velocity[block] = self.server_momentum * carried + step
                    step = velocity[block].astype(np.float64)
                after[block] = before[block] + self._scaled(block, step, mean[block])
        self.velocity = velocity
        return after

    def _scaled(
        self, block: slice, step: NDArray[np.float64], mean: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return what a block of the model moves by, for its step and its mean."""
        moved = self.step_size() * step
        if isinstance(self.layout.trained_at, slice):
            # Everything is trained: no buffer to tell apart.
            return moved
        # Momentum would carry a buffer such as a running variance below zero.
        return np.where(self.layout.is_trained[block], moved, mean)


def _messages(
    nodes: list[int], arrays: ArrayRecord, config: ConfigRecord, kind: str
) -> list[Message]:
    """Return one message to each node, all with the same content."""
    content = RecordDict({"arrays": arrays, "config": config})
    return [
        Message(content=content, message_type=kind, dst_node_id=node) for node in nodes
    ]


def _nodes(grid: Grid) -> Sequence[int]:
    """Return the nodes as a sequence; the range of a simulation stays a range."""
    nodes = grid.get_node_ids()
    return nodes if isinstance(nodes, range) else list(nodes)
