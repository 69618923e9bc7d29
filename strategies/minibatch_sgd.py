"""Mini-batch SGD over clients: each sends the gradient of one mini-batch, the server takes the step.

Source: FedSGD of McMahan et al. (AISTATS 2017) with mini-batches in place of all of a client's samples; as a
baseline that is hard to beat: Woodworth, Patel and Srebro, "Minibatch vs Local SGD" (NeurIPS 2020). Momentum is
Polyak's (1964), kept at the server.

Gradients of small batches are noisy; four means against it, which combine: more ``batches`` per client, clipping
each client's gradient (Pascanu et al., ICML 2013), momentum, and the median of group means (see `MedianOfMeans`).
"""

from __future__ import annotations

from collections.abc import Iterable

from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid

from fedlearn.arrays import Layout
from fedlearn.errors import ConfigError
from fedlearn.flower import Received
from fedlearn.strategies.aggregate import MedianOfMeans
from fedlearn.strategies.streaming import Streaming, Sum


class MinibatchSGD(Streaming):
    """Server-side SGD on clients' mini-batch gradients; see `Streaming` for the shared arguments.

    The step is ``[train]``'s lr of the round × server_lr.
    batches: mini-batches of ``[train]``'s batch_size whose gradients each client averages.
    clip_norm: largest L2 norm of a client's gradient; 0 = as ``[train]`` says.
    groups: above 1, aggregate by the median of this many groups' means; needs that many models' memory.
    """

    def __init__(
        self,
        layout: Layout,
        seed: int,
        clients: int,
        min_clients: int = 1,
        fraction_train: float = 0.1,
        clients_per_round: int = 0,
        fraction_evaluate: float = 0.0,
        server_lr: float = 1.0,
        server_momentum: float = 0.9,
        batches: int = 1,
        clip_norm: float = 0.0,
        groups: int = 1,
    ) -> None:
        """Check the arguments; raises ConfigError."""
        super().__init__(
            layout,
            seed,
            clients,
            min_clients,
            fraction_train,
            clients_per_round,
            fraction_evaluate,
            server_lr,
            server_momentum,
        )
        if batches < 1 or clip_norm < 0:
            raise ConfigError(
                f"batches = {batches}, clip_norm = {clip_norm:g}: at least 1 and at least 0"
            )
        if not 1 <= groups <= self.cohort:
            raise ConfigError(
                f"groups = {groups}: from 1 to the {self.cohort} clients of a round"
            )
        self.batches, self.clip_norm, self.groups = batches, clip_norm, groups
        self.lr = 0.0

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return one message to each client of the cohort, and note the round's learning rate."""
        self.lr = float(config["lr"])  # type: ignore[arg-type]  # the experiment always sends it
        return super().configure_train(server_round, arrays, config, grid)

    def asks(self) -> dict[str, int | float | str]:
        """Return the plan of a gradient: no local step."""
        asked: dict[str, int | float | str] = {
            "task": "gradient",
            "accumulate": self.batches,
        }
        return asked | ({"clip_norm": self.clip_norm} if self.clip_norm else {})

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
