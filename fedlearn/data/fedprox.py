"""Synthetic(alpha, beta): any number of clients, each drawn when asked for.

Client k has its own softmax model y = argmax(W x + b), entries of W (10, 60) and b ~ N(u, 1),
u ~ N(0, alpha). Its inputs are x ~ N(v, Σ), v_j ~ N(B, 1), B ~ N(0, beta), Σ diagonal with
j^−1.2. alpha: how much the models differ; beta: how much the inputs differ. Both are variances,
as the paper writes. The paper's code uses them as deviations, which agree at 0 and 1.

Differences from the paper: a client may have at most ``cap`` samples, because the log-normal has
no bound; and the held-out samples are drawn for at most 100 clients.

Source: Li et al., FedProx (MLSys 2020).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedlearn.data.checks import DEFAULT_CLIENTS, flag, number, whole
from fedlearn.data.samples import Population, Samples
from fedlearn.errors import ConfigError
from fedlearn.seeds import derive, generator

# Sizes of the paper's problem.
FEATURES = 60
CLASSES = 10
# Samples of the smallest client, as in the paper's code.
MIN_SAMPLES = 50
# Held-out samples: 20 each of at most 100 clients, so that a million clients cost no more.
TEST_CLIENTS = 100
TEST_SAMPLES_EACH = 20
# Standard deviations of the inputs, (60,): the square root of Σ's diagonal j^−1.2.
DEVIATIONS = np.arange(1, FEATURES + 1) ** -0.6


class SoftmaxRule(NamedTuple):
    """How one client's samples arise: weights W (60, 10), biases b (10,), mean input v (60,)."""

    weights: NDArray[np.float64]
    biases: NDArray[np.float64]
    centre: NDArray[np.float64]


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
        """Return min(cap, 50 + ⌊exp(4 + 2 z)⌋), z standard normal: the paper's log-normal + 50.

        Raises IndexError outside 0 ≤ client < len.
        """
        # The middle of the cell, so that 0 and 1, where z is infinite, do not occur.
        cell = derive(self.seed, "fedprox/size", self._checked(client))
        uniform = (cell + 0.5) / 2**63
        normal = NormalDist().inv_cdf(uniform)
        more = int(math.exp(4 + 2 * normal))
        return min(self.cap, MIN_SAMPLES + more)

    def __getitem__(self, client: int) -> Samples:
        """Draw the training samples of one client: x (n, 60) float32, y (n,) int64."""
        count = self.size(client)
        return self._draw(client, "train", count)

    def held_out(self, client: int, count: int) -> Samples:
        """Draw ``count`` other samples of one client."""
        return self._draw(client, "test", count)

    def _draw(self, client: int, part: str, count: int) -> Samples:
        """Draw samples of a client; a part ("train", "test") has random numbers of its own."""
        rule = self._rule(self._checked(client))
        rng = generator(self.seed, f"fedprox/{part}", client)
        normal = rng.standard_normal((count, FEATURES))
        inputs = rule.centre + normal * DEVIATIONS
        # The labels are those of the rounded inputs, which are all that a model sees.
        x = inputs.astype(np.float32)
        scores = x @ rule.weights + rule.biases
        y = np.argmax(scores, axis=1)
        return Samples(x, y.astype(np.int64))

    def _rule(self, client: int) -> SoftmaxRule:
        """Return the rule of one client; in the iid variant all share client 0's, and v = 0."""
        # The order of these draws is part of the data set: another order is another set.
        owner = 0 if self.iid else client
        rng = generator(self.seed, "fedprox/rule", owner)
        # u and B of the paper.
        model_mean = rng.normal(0, math.sqrt(self.alpha))
        input_mean = rng.normal(0, math.sqrt(self.beta))
        weights = rng.normal(model_mean, 1, (FEATURES, CLASSES))
        biases = rng.normal(model_mean, 1, CLASSES)
        centre = np.zeros(FEATURES)
        if not self.iid:
            centre = rng.normal(input_mean, 1, FEATURES)
        return SoftmaxRule(weights, biases, centre)

    def _checked(self, client: int) -> int:
        """Return the client's number; raises IndexError outside 0 ≤ client < len."""
        if not 0 <= client < self.clients:
            raise IndexError(f"client {client} of {self.clients}")
        # numpy's numbers too: a seed is derived from a plain int.
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
    """Return the population of Synthetic(alpha, beta), or of Synthetic-IID.

    clients: here or in ``[data.partition]``, 100 by default. cap: largest number of samples of a
    client. Raises ConfigError for wrong values, or another kind of partition than the natural one.
    """
    total = _clients(partition, clients)
    source = SyntheticClients(
        seed=seed,
        clients=total,
        alpha=number("[data] alpha", alpha),
        beta=number("[data] beta", beta),
        iid=flag("[data] iid", iid),
        cap=whole("[data] cap", cap, MIN_SAMPLES),
    )
    evenly = np.linspace(0, total - 1, min(total, TEST_CLIENTS))
    chosen = np.unique(evenly.astype(np.int64))
    parts = [source.held_out(int(client), TEST_SAMPLES_EACH) for client in chosen]
    test = Samples(
        np.concatenate([part.x for part in parts]),
        np.concatenate([part.y for part in parts]),
    )
    return Population("synthetic", "features", CLASSES, (FEATURES,), source, test)


def _clients(partition: Mapping[str, Any], clients: int | None) -> int:
    """Return the number of clients that either table gives.

    Raises ConfigError for two numbers that differ, and for any other key of ``partition``.
    """
    table = dict(partition)
    if table.pop("kind", "natural_id") != "natural_id":
        raise ConfigError(
            "data set 'synthetic' is drawn client by client: "
            "leave out [data.partition] kind"
        )
    numbers = {table.pop(key) for key in ("clients", "num_partitions") if key in table}
    if table:
        raise ConfigError(
            f"[data.partition] {next(iter(table))}: data set 'synthetic' takes only "
            "'clients' there"
        )
    if clients is not None:
        numbers.add(clients)
    if len(numbers) > 1:
        raise ConfigError(
            f"data set 'synthetic': different numbers of clients ({numbers}); "
            "give clients once"
        )
    total = next(iter(numbers), DEFAULT_CLIENTS)
    return whole("[data] clients", total, 1, 10**9)
