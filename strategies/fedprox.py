"""FedProx: FedAvg whose clients are pulled back towards the model that they were sent.

Source: Li et al., "Federated Optimization in Heterogeneous Networks" (MLSys 2020).

Differs from FedAvg: each client minimises its loss + mu/2 ‖w − w₀‖², so that local work
of different length, as of stragglers (``train.stragglers``), can be averaged. The clients
compute the pull; the server's half is FedAvg's.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedlearn.errors import ConfigError
from fedlearn.strategies.fedavg import FedAvg
from fedlearn.strategies.streaming import Request


@dataclass(eq=False, repr=False)
class FedProx(FedAvg):
    """Federated averaging with a proximal term; see `FedAvg` for the other fields."""

    # The paper's mu, one of the values that it tunes over (0.001 to 1); 0 is FedAvg.
    proximal_mu: float = 1.0

    def __post_init__(self) -> None:
        """Check the arguments; raises ConfigError."""
        super().__post_init__()
        if self.proximal_mu < 0:
            raise ConfigError(
                f"proximal_mu = {self.proximal_mu:g} pushes clients away from the "
                "model; it is 0 or more"
            )

    def asks(self) -> Request:
        """Return the strength of the pull."""
        return {"proximal-mu": self.proximal_mu}
