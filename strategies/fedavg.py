"""FedAvg: each client trains for some epochs, the server averages the updates.

Source: McMahan et al., "Communication-Efficient Learning of Deep Networks from
Decentralized Data" (AISTATS 2017). Server momentum: Hsu, Qi and Brown, "Measuring the
Effects of Non-Identical Data Distribution" (2019).

Differs from the paper: clients send differences, which compress; the weighted mean is
the same. Momentum is on unless ``server_momentum = 0`` asks for the paper's own step:
docs/strategies.md has what it was measured to be worth.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedlearn.flower import Received
from fedlearn.strategies.streaming import Request, Streaming


@dataclass(eq=False, repr=False)
class FedAvg(Streaming):
    """Federated averaging; see `Streaming` for the other fields."""

    # Measured best among 0, 0.6 and 0.9: docs/strategies.md, "Ours".
    server_momentum: float = 0.6
    # True weights clients by their examples, as the paper does; False all alike.
    weighted: bool = True

    def asks(self) -> Request:
        """Return nothing: clients train as ``[train]`` says."""
        return {}

    def weight(self, received: Received) -> float:
        """Return the client's number of examples, or 1."""
        return received.examples if self.weighted else 1
