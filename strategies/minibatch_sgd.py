"""Mini-batch SGD over clients: each sends one mini-batch's gradient, the server steps.

Source: FedSGD of McMahan et al. (AISTATS 2017). As a baseline that is hard to beat:
Woodworth, Patel and Srebro, "Minibatch vs Local SGD" (NeurIPS 2020). Momentum is
Polyak's (1964), at the server.

Differs from FedSGD: a mini-batch in place of all of a client's samples. Gradients of
small batches are noisy; four means against it, which combine: more ``batches`` per
client, clipping each client's gradient (Pascanu et al., ICML 2013), momentum, and the
median of group means (see `MedianOfMeans`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid

from fedlearn.errors import ConfigError
from fedlearn.flower import Received
from fedlearn.strategies.aggregate import MedianOfMeans
from fedlearn.strategies.streaming import Request, Streaming, Sum


@dataclass(eq=False, repr=False)
class MinibatchSGD(Streaming):
    """Server-side SGD on clients' mini-batch gradients; see `Streaming` for the rest.

    The step is ``[train]``'s lr of the round × server_lr.
    """

    server_momentum: float = 0.9
    # Mini-batches of ``[train]``'s batch_size whose gradients each client averages.
    batches: int = 1
    # The largest L2 norm of a client's gradient; 0: as ``[train]`` says.
    clip_norm: float = 0.0
    # Above 1: the median of this many groups' means, for as many models' memory.
    groups: int = 1

    def __post_init__(self) -> None:
        """Check the arguments; raises ConfigError."""
        super().__post_init__()
        if self.batches < 1 or self.clip_norm < 0:
            raise ConfigError(
                f"batches = {self.batches}, clip_norm = {self.clip_norm:g}: "
                "at least 1 and at least 0"
            )
        if not 1 <= self.groups <= self.cohort:
            raise ConfigError(
                f"groups = {self.groups}: from 1 to the {self.cohort} clients of a round"
            )
        if self.methods:
            raise ConfigError(
                "methods bend the steps that clients take, and clients of minibatch-sgd "
                "take none; leave methods out, or use fedavg"
            )
        # The clients' learning rate of this round.
        self.lr = 0.0

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return a message to each client; note the round's learning rate."""
        # The experiment always sends it.
        self.lr = float(config["lr"])  # type: ignore[arg-type]
        return super().configure_train(server_round, arrays, config, grid)

    def asks(self) -> Request:
        """Return the plan of a gradient: no local step."""
        request: Request = {"task": "gradient", "accumulate": self.batches}
        if self.clip_norm:
            request["clip_norm"] = self.clip_norm
        return request

    def start_sum(self) -> Sum:
        """Return a plain sum, or the median of group means."""
        if self.groups == 1:
            return super().start_sum()
        return MedianOfMeans(
            self.layout.floats, self.layout.integers, self.cohort, self.groups
        )

    def weight(self, received: Received) -> int:
        """Return 1: every mini-batch counts alike."""
        return 1

    def step_size(self) -> float:
        """Return the round's learning rate times server_lr."""
        return self.lr * self.server_lr
