"""FedProx: FedAvg whose clients are pulled back towards the model that they were sent.

Source: Li et al., "Federated Optimization in Heterogeneous Networks" (MLSys 2020): each client minimises its loss + mu/2 ‖w − w₀‖²,
so that local work of different length, as of stragglers (``train.stragglers``), can be averaged.
"""

from __future__ import annotations

from fedlearn.arrays import Layout
from fedlearn.errors import ConfigError
from fedlearn.strategies.fedavg import FedAvg


class FedProx(FedAvg):
    """Federated averaging with a proximal term; see `FedAvg` for the other arguments. proximal_mu: mu, 0 is FedAvg."""

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
        proximal_mu: float = 1.0,
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
            weighted,
        )
        if proximal_mu < 0:
            raise ConfigError(
                f"proximal_mu = {proximal_mu:g} pushes clients away from the model; it is 0 or more"
            )
        self.proximal_mu = proximal_mu

    def asks(self) -> dict[str, int | float | str]:
        """Return the pull."""
        return {"proximal-mu": self.proximal_mu}
