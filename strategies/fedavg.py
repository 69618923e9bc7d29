"""FedAvg: each client trains for some epochs, the server averages what they learned, weighted by examples.

Source: McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data" (AISTATS 2017).
Server momentum: Hsu, Qi and Brown, "Measuring the Effects of Non-Identical Data Distribution" (2019).
Differs from the paper: clients send differences, which compress; the weighted mean is the same. Momentum is on unless
``server_momentum = 0`` asks for the paper's own step: docs/strategies.md has what it was measured to be worth.
"""

from __future__ import annotations

from fedlearn.arrays import Layout
from fedlearn.flower import Received
from fedlearn.strategies.streaming import Streaming


class FedAvg(Streaming):
    """Federated averaging; see `Streaming` for the arguments.

    weighted: weight clients by their examples (True, the paper's) or all alike.
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
        server_momentum: float = 0.6,
        weighted: bool = True,
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
        self.weighted = weighted

    def asks(self) -> dict[str, int | float | str]:
        """Return nothing: clients train as ``[train]`` says."""
        return {}

    def weight(self, received: Received) -> int:
        """Return the client's number of examples, or 1."""
        return received.header.examples if self.weighted else 1
