"""Synthetic(alpha, beta): any number of clients, each drawn when asked for (Li et al., FedProx, MLSys 2020).

Client k has its own softmax model y = argmax(W x + b), entries of W (10, 60) and b ~ N(u, 1), u ~ N(0, alpha); its
inputs are x ~ N(v, Σ), v_j ~ N(B, 1), B ~ N(0, beta), Σ diagonal with j^−1.2. alpha: how much the models differ;
beta: how much the inputs differ; both are variances, as the paper writes (its code uses them as deviations; they
agree at 0 and 1).
Differences from the paper: a client may have at most ``cap`` samples (its log-normal has no bound), and the
held-out samples are drawn for at most 100 clients.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlearn.data.checks import flag, number, whole
from fedlearn.data.checks import DEFAULT_CLIENTS
from fedlearn.data.samples import Population, Samples
from fedlearn.errors import ConfigError
from fedlearn.seeds import derive, generator

FEATURES, CLASSES = 60, 10
LEAST = 50  # samples of the smallest client
TEST_CLIENTS, TEST_EACH = 100, 20
DEVIATIONS = np.arange(1, FEATURES + 1) ** -0.6  # the root of j^-1.2


@dataclass(frozen=True)
class SyntheticClients:
    """`ClientData` that holds nothing but its settings: client k is a function of (seed, k)."""

    seed: int
    clients: int
    alpha: float = 1.0
    beta: float = 1.0
    iid: bool = False
    cap: int = 1_000

    def __len__(self) -> int:
        """Return the number of clients."""
        return self.clients

    def size(self, client: int) -> int:
        """Return min(cap, 50 + ⌊exp(4 + 2 z)⌋), z standard normal: the paper's log-normal(4, 2) + 50."""
        uniform = (
            derive(self.seed, "fedprox/size", self._number(client)) + 0.5
        ) / 2**63
        return min(
            self.cap, LEAST + int(math.exp(4 + 2 * NormalDist().inv_cdf(uniform)))
        )

    def __getitem__(self, client: int) -> Samples:
        """Draw the training samples of one client: x (n, 60) float32, y (n,) int64."""
        return self._draw(client, "train", self.size(client))

    def held_out(self, client: int, count: int) -> Samples:
        """Draw ``count`` other samples of one client."""
        return self._draw(client, "test", count)

    def _draw(self, client: int, part: str, count: int) -> Samples:
        weights, biases, centre = self._rule(self._number(client))
        rng = generator(self.seed, f"fedprox/{part}", client)
        x = (centre + rng.standard_normal((count, FEATURES)) * DEVIATIONS).astype(
            np.float32
        )
        return Samples(x, np.argmax(x @ weights + biases, axis=1).astype(np.int64))

    def _rule(
        self, client: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return W (60, 10), b (10,) and v (60,) of one client; in the iid variant all share client 0's, v = 0."""
        rng = generator(self.seed, "fedprox/rule", 0 if self.iid else client)
        shift, middle = (
            rng.normal(0, math.sqrt(self.alpha)),
            rng.normal(0, math.sqrt(self.beta)),
        )
        weights, biases = (
            rng.normal(shift, 1, (FEATURES, CLASSES)),
            rng.normal(shift, 1, CLASSES),
        )
        return (
            weights,
            biases,
            np.zeros(FEATURES) if self.iid else rng.normal(middle, 1, FEATURES),
        )

    def _number(self, client: int) -> int:
        if not 0 <= client < self.clients:
            raise IndexError(f"client {client} of {self.clients}")
        return int(client)


def synthetic(
    partition: Mapping[str, Any],
    seed: int,
    alpha: float = 1.0,
    beta: float = 1.0,
    clients: int | None = None,
    iid: bool = False,
    cap: int = 1_000,
) -> Population:
    """Return the population of Synthetic(alpha, beta), or of Synthetic-IID; ``cap`` bounds a client's samples.

    clients: here or in ``[data.partition]``, 100 by default. Raises ConfigError for wrong values, or another kind of
    partition than the natural one.
    """
    total = _clients(partition, clients)
    source = SyntheticClients(
        seed=seed,
        clients=total,
        alpha=number("[data] alpha", alpha),
        beta=number("[data] beta", beta),
        iid=flag("[data] iid", iid),
        cap=whole("[data] cap", cap, LEAST),
    )
    chosen = np.unique(
        np.linspace(0, total - 1, min(total, TEST_CLIENTS)).astype(np.int64)
    )
    parts = [source.held_out(int(k), TEST_EACH) for k in chosen]
    test = Samples(
        np.concatenate([part.x for part in parts]),
        np.concatenate([part.y for part in parts]),
    )
    return Population("synthetic", "features", CLASSES, (FEATURES,), source, test)


def _clients(partition: Mapping[str, Any], clients: int | None) -> int:
    """Return the number of clients that either table gives; raises ConfigError for any other wish."""
    table = dict(partition)
    if table.pop("kind", "natural_id") != "natural_id":
        raise ConfigError(
            "data set 'synthetic' is drawn client by client: leave out [data.partition] kind"
        )
    given = {table.pop(key) for key in ("clients", "num_partitions") if key in table}
    if table:
        raise ConfigError(
            f"[data.partition] {next(iter(table))}: data set 'synthetic' takes only 'clients' there"
        )
    given |= {clients} if clients is not None else set()
    if len(given) > 1:
        raise ConfigError(
            f"data set 'synthetic': different numbers of clients ({given}); give clients once"
        )
    return whole("[data] clients", next(iter(given), DEFAULT_CLIENTS), 1, 10**9)
