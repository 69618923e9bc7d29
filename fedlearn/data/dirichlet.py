"""Partitions with a Dirichlet mix of classes. Legend: N samples, M clients, K classes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlearn.data.by_owner import Ids, column
from fedlearn.data.by_size import enough, listed_sizes
from fedlearn.data.checks import concentrations, flag, whole
from fedlearn.data.partition import CLIENTS
from fedlearn.errors import ConfigError

Labels = NDArray[np.int64]

TRIES = 200  # only (K, M) counts are drawn per try, so that 200 tries for 1,000 clients take a tenth of a second


def dirichlet(
    labels: Labels,
    ids: Ids,
    rng: np.random.Generator,
    alpha: float | list[float] = 0.5,
    clients: int = CLIENTS,
    min_partition_size: int = 10,
    self_balancing: bool = False,
    partition_by: str = "label",
) -> NDArray[np.int64]:
    """Split every class among the clients by shares drawn from Dirichlet(alpha) (Hsu et al., 2019; Yurochkin, 2019).

    Small alpha: few classes per client; large: nearly equal shares. ``alpha`` may be a list, one per client.
    Draws again until the smallest client has ``min_partition_size`` samples, at most 200 times; then ConfigError.
    ``self_balancing`` gives nothing more of later classes to a client that already has more than N / M samples.
    """
    values = column(labels, ids, partition_by)
    clients = enough(clients, len(values))
    least = whole("[data.partition] min_partition_size", min_partition_size, 0)
    balanced = flag("[data.partition] self_balancing", self_balancing)
    weights = concentrations("[data.partition] alpha", alpha, clients, "clients")
    if least * clients > len(values):
        raise ConfigError(
            f"[data.partition] min_partition_size = {least} for {clients} clients needs {least * clients:,} samples, "
            f"but there are {len(values):,}; lower it or use fewer clients"
        )
    classes, inverse = np.unique(values, return_inverse=True)
    counts = np.bincount(inverse.reshape(-1), minlength=len(classes))
    shares = _draw(counts, weights, least, balanced, rng)
    return _hand_out(inverse.reshape(-1), shares, rng)


def _draw(
    counts: Labels,
    alpha: NDArray[np.float64],
    least: int,
    balanced: bool,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Return samples per (class, client), (K, M) int64, whose smallest column sum is at least ``least``."""
    smallest = -1
    for _ in range(TRIES):
        proportions = rng.dirichlet(alpha, size=len(counts))
        shares = (
            _balanced(proportions, counts)
            if balanced
            else _cut(proportions, counts[:, None])
        )
        smallest = max(smallest, int(shares.sum(axis=0).min()))
        if smallest >= least:
            return shares
    raise ConfigError(
        f"[data.partition] kind = 'dirichlet': in {TRIES} draws the smallest of {len(alpha)} clients had at most "
        f"{smallest} samples, fewer than min_partition_size = {least}; lower it, raise alpha or use fewer clients"
    )


def _cut(proportions: NDArray[np.float64], counts: Any) -> NDArray[np.int64]:
    """Return whole numbers in these proportions along the last axis that add up to ``counts``."""
    edges = np.floor(np.cumsum(proportions, axis=-1) * counts).astype(np.int64)
    edges[..., -1:] = counts
    shares: NDArray[np.int64] = np.diff(edges, axis=-1, prepend=0)
    return shares


def _balanced(proportions: NDArray[np.float64], counts: Labels) -> NDArray[np.int64]:
    shares = np.zeros(proportions.shape, np.int64)
    for k, row in enumerate(proportions):
        open_to = np.where(shares.sum(axis=0) > counts.sum() / len(row), 0.0, row)
        if open_to.sum() == 0:
            open_to = row
        # The last edge is set to the count, so the last client with a share must stand last: cut among the open only.
        clients = np.flatnonzero(open_to)
        shares[k, clients] = _cut(open_to[clients] / open_to.sum(), counts[k])
    return shares


def inner_dirichlet(
    labels: Labels,
    ids: Ids,
    rng: np.random.Generator,
    alpha: float | list[float] = 0.5,
    partition_sizes: list[int] | None = None,
    clients: int | None = None,
    partition_by: str = "label",
) -> NDArray[np.int64]:
    """Fill clients of given sizes with classes drawn from each client's own Dirichlet(alpha) (Acar et al., ICLR 2021).

    The paper draws sample by sample. Here all clients draw all that they still need at once, and where a class is
    asked for more often than it has samples, chance decides who gets them and the rest draw again without that
    class: at most K + 1 rounds. ``partition_sizes`` or ``clients`` (equal sizes N // M); ``alpha`` one or K numbers.
    """
    values = column(labels, ids, partition_by)
    sizes = _sizes(partition_sizes, clients, len(values))
    classes, inverse = np.unique(values, return_inverse=True)
    left = np.bincount(inverse.reshape(-1), minlength=len(classes))
    priors = rng.dirichlet(
        concentrations("[data.partition] alpha", alpha, len(classes), "classes"),
        size=len(sizes),
    )
    shares = np.zeros((len(classes), len(sizes)), np.int64)
    while (need := sizes - shares.sum(axis=0)).any():
        asked = rng.multinomial(need, _open(priors, left)).T
        for k in np.flatnonzero(asked.sum(axis=1) > left):
            asked[k] = rng.multivariate_hypergeometric(
                asked[k], left[k], method="marginals"
            )
        shares += asked
        left = left - asked.sum(axis=1)
    return _hand_out(inverse.reshape(-1), shares, rng)


def _open(priors: NDArray[np.float64], left: Labels) -> NDArray[np.float64]:
    """Return each client's class probabilities over the classes that still have samples."""
    chances = priors * (left > 0)
    totals = chances.sum(axis=1, keepdims=True)
    fallback = (
        left / left.sum()
    )  # a client none of whose classes is left takes what there is
    open_to: NDArray[np.float64] = np.where(
        totals > 1e-12, chances / np.maximum(totals, 1e-12), fallback
    )
    return open_to


def _sizes(partition_sizes: Any, clients: Any, samples: int) -> NDArray[np.int64]:
    if partition_sizes is None:
        clients = enough(CLIENTS if clients is None else clients, samples)
        return np.full(clients, samples // clients, np.int64)
    sizes = listed_sizes(partition_sizes, samples)
    if clients is not None and clients != len(sizes):
        raise ConfigError(
            f"[data.partition] clients = {clients}, but partition_sizes lists {len(sizes)}; drop one"
        )
    return sizes


def _hand_out(
    inverse: Labels, shares: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Turn samples per (class, client) into the owner of every sample; who gets which sample is random."""
    owners = np.full(len(inverse), -1, np.int64)
    for k, row in enumerate(shares):
        samples = rng.permutation(np.flatnonzero(inverse == k))
        owners[samples[: row.sum()]] = np.repeat(np.arange(len(row)), row)
    return owners
