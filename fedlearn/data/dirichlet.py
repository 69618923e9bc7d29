"""Partitions with a Dirichlet mix of classes. Legend: N samples, M clients, K classes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlearn.data.by_owner import Ids, column
from fedlearn.data.by_size import enough, listed_sizes
from fedlearn.data.checks import DEFAULT_CLIENTS, concentrations, flag, whole
from fedlearn.errors import ConfigError

Labels = NDArray[np.int64]

# Draws before the search for large enough clients ends. A draw makes only (K, M) counts,
# so 200 draws for 1,000 clients take a tenth of a second.
TRIES = 200


def dirichlet(
    labels: Labels,
    ids: Ids,
    rng: np.random.Generator,
    alpha: float | list[float] = 0.5,
    clients: int = DEFAULT_CLIENTS,
    min_partition_size: int = 10,
    self_balancing: bool = False,
    partition_by: str = "label",
) -> NDArray[np.int64]:
    """Split every class among the clients by shares drawn from Dirichlet(alpha).

    Small alpha: few classes per client; large: nearly equal shares. ``alpha`` may be a list, one
    per client. ``self_balancing``: a client that has more than N / M samples gets nothing of
    later classes. The draw is repeated until the smallest client has ``min_partition_size``
    samples, at most 200 times. Raises ConfigError after that, and for a wrong value.

    Source: Yurochkin et al. (ICML 2019); Hsu et al. (2019).
    """
    values = column(labels, ids, partition_by)
    clients = enough(clients, len(values))
    min_size = whole("[data.partition] min_partition_size", min_partition_size, 0)
    balanced = flag("[data.partition] self_balancing", self_balancing)
    weights = concentrations("[data.partition] alpha", alpha, clients, "clients")
    # No draw can succeed, so say it before 200 of them.
    if min_size * clients > len(values):
        raise ConfigError(
            f"[data.partition] min_partition_size = {min_size} for {clients} clients "
            f"needs {min_size * clients:,} samples, but there are {len(values):,}; "
            "lower it or use fewer clients"
        )
    classes, inverse = np.unique(values, return_inverse=True)
    inverse = inverse.reshape(-1)
    counts = np.bincount(inverse, minlength=len(classes))
    shares = _draw_shares(counts, weights, min_size, balanced, rng)
    return _hand_out(inverse, shares, rng)


def _draw_shares(
    counts: Labels,
    alpha: NDArray[np.float64],
    min_size: int,
    balanced: bool,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Return samples per (class, client), (K, M) int64, each column sum at least ``min_size``.

    Raises ConfigError when no draw has such sums.
    """
    divide_by = _balanced if balanced else _independent
    best = -1
    for _ in range(TRIES):
        proportions = rng.dirichlet(alpha, size=len(counts))
        shares = divide_by(proportions, counts)
        smallest = int(shares.sum(axis=0).min())
        if smallest >= min_size:
            return shares
        best = max(best, smallest)
    raise ConfigError(
        f"[data.partition] kind = 'dirichlet': in {TRIES} draws the smallest of "
        f"{len(alpha)} clients had at most {best} samples, fewer than "
        f"min_partition_size = {min_size}; lower it, raise alpha or use fewer clients"
    )


def _independent(proportions: NDArray[np.float64], counts: Labels) -> NDArray[np.int64]:
    """Return samples per (class, client), (K, M), each class cut for itself."""
    return _cut(proportions, counts[:, None])


def _cut(proportions: NDArray[np.float64], counts: Any) -> NDArray[np.int64]:
    """Return whole numbers in these proportions along the last axis that add up to ``counts``."""
    cumulative = np.cumsum(proportions, axis=-1)
    edges = np.floor(cumulative * counts).astype(np.int64)
    # The cumulative sum may end a rounding error below 1; no sample may be lost by that.
    edges[..., -1:] = counts
    shares: NDArray[np.int64] = np.diff(edges, axis=-1, prepend=0)
    return shares


def _balanced(proportions: NDArray[np.float64], counts: Labels) -> NDArray[np.int64]:
    """Return shares as `_cut` does; a client above the mean size gets nothing of later classes."""
    shares = np.zeros(proportions.shape, np.int64)
    mean_size = counts.sum() / proportions.shape[1]
    for k, row in enumerate(proportions):
        weights = np.where(shares.sum(axis=0) > mean_size, 0.0, row)
        if weights.sum() == 0:
            weights = row
        # `_cut` gives the last client whatever rounding leaves. So cut among those that
        # may get something, or a full client in the last place would get it.
        clients = np.flatnonzero(weights)
        shares[k, clients] = _cut(weights[clients] / weights.sum(), counts[k])
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
    """Fill clients of given sizes with classes drawn from each client's own Dirichlet(alpha).

    ``partition_sizes``, or ``clients`` of equal sizes ⌊N / M⌋; ``alpha``: one number or K.
    The paper draws sample by sample. Here all clients draw at once all samples that they need.
    Where a class is requested more often than it has samples, chance decides who gets them, and
    the others draw again without that class: at most K + 1 rounds. Raises ConfigError for a
    wrong value.

    Source: Acar et al., FedDyn (ICLR 2021).
    """
    values = column(labels, ids, partition_by)
    sizes = _sizes(partition_sizes, clients, len(values))
    classes, inverse = np.unique(values, return_inverse=True)
    inverse = inverse.reshape(-1)
    stock = np.bincount(inverse, minlength=len(classes))
    weights = concentrations("[data.partition] alpha", alpha, len(classes), "classes")
    priors = rng.dirichlet(weights, size=len(sizes))
    shares = np.zeros((len(classes), len(sizes)), np.int64)
    need = sizes
    while need.any():
        probabilities = _available(priors, stock)
        requests = rng.multinomial(need, probabilities).T
        # A class in short supply: every sample requested is as likely to be granted.
        for k in np.flatnonzero(requests.sum(axis=1) > stock):
            requests[k] = rng.multivariate_hypergeometric(
                requests[k], stock[k], method="marginals"
            )
        shares += requests
        stock = stock - requests.sum(axis=1)
        need = sizes - shares.sum(axis=0)
    return _hand_out(inverse, shares, rng)


def _available(priors: NDArray[np.float64], stock: Labels) -> NDArray[np.float64]:
    """Return each client's class probabilities (M, K) over the classes with samples in stock."""
    chances = priors * (stock > 0)
    totals = chances.sum(axis=1, keepdims=True)
    # A client none of whose classes is in stock draws from whatever is.
    fallback = stock / stock.sum()
    # Below 1e-12 the quotient would be noise of the Dirichlet draw.
    probabilities: NDArray[np.float64] = np.where(
        totals > 1e-12, chances / np.maximum(totals, 1e-12), fallback
    )
    return probabilities


def _sizes(partition_sizes: Any, clients: Any, samples: int) -> NDArray[np.int64]:
    """Return the sizes (M,) of `inner_dirichlet`'s clients; raises ConfigError for wrong ones."""
    if partition_sizes is None:
        clients = enough(DEFAULT_CLIENTS if clients is None else clients, samples)
        return np.full(clients, samples // clients, np.int64)
    # Both may be given where they agree, as in a config that overrides one of them.
    sizes = listed_sizes(partition_sizes, samples)
    if clients is not None and clients != len(sizes):
        raise ConfigError(
            f"[data.partition] clients = {clients}, but partition_sizes lists "
            f"{len(sizes)}; drop one"
        )
    return sizes


def _hand_out(
    inverse: Labels, shares: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Turn samples per (class, client) into owners (N,); who gets which sample is random.

    inverse: (N,) the class of each sample as a row of ``shares`` (K, M).
    """
    owners = np.full(len(inverse), -1, np.int64)
    clients = np.arange(shares.shape[1])
    for k, row in enumerate(shares):
        samples = np.flatnonzero(inverse == k)
        shuffled = rng.permutation(samples)
        # What no client draws of a class stays −1, nobody's.
        dealt = shuffled[: row.sum()]
        owners[dealt] = np.repeat(clients, row)
    return owners
