"""Partitions that look at nothing but sizes. Legend: N samples, M clients."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlearn.data.checks import whole, wholes
from fedlearn.data.partition import CLIENTS
from fedlearn.errors import ConfigError

Labels = NDArray[np.int64]


def enough(clients: Any, samples: int) -> int:
    """Return the number of clients; raises ConfigError when it is not in 1 … samples."""
    count = whole("[data.partition] clients", clients)
    if count > samples:
        raise ConfigError(
            f"[data.partition] clients = {count:,} is more than the {samples:,} training samples; use fewer clients or more data"
        )
    return count


def iid(
    labels: Labels, rng: np.random.Generator, clients: int = CLIENTS
) -> NDArray[np.int64]:
    """Give every client an equal random share; the first N mod M clients get one sample more."""
    clients = enough(clients, len(labels))
    share, over = divmod(len(labels), clients)
    return _deal(
        np.full(clients, share) + (np.arange(clients) < over), len(labels), rng
    )


def size(
    labels: Labels, rng: np.random.Generator, partition_sizes: list[int]
) -> NDArray[np.int64]:
    """Give client k ``partition_sizes[k]`` random samples; what is left over belongs to nobody."""
    return _deal(listed_sizes(partition_sizes, len(labels)), len(labels), rng)


def linear(
    labels: Labels, rng: np.random.Generator, clients: int = CLIENTS
) -> NDArray[np.int64]:
    """Give client i = 1 … M a random share in proportion to i."""
    ranks = _ranks(clients, len(labels))
    return _deal(_proportional("linear", ranks, len(labels)), len(labels), rng)


def square(
    labels: Labels, rng: np.random.Generator, clients: int = CLIENTS
) -> NDArray[np.int64]:
    """Give client i = 1 … M a random share in proportion to i²."""
    ranks = _ranks(clients, len(labels))
    return _deal(_proportional("square", ranks**2, len(labels)), len(labels), rng)


def exponential(
    labels: Labels, rng: np.random.Generator, clients: int = CLIENTS
) -> NDArray[np.int64]:
    """Give client i = 1 … M a random share in proportion to exp(i)."""
    ranks = _ranks(clients, len(labels))
    return _deal(
        _proportional("exponential", np.exp(ranks - ranks[-1]), len(labels)),
        len(labels),
        rng,
    )


def listed_sizes(partition_sizes: Any, samples: int) -> NDArray[np.int64]:
    """Return the user's sizes as (M,) int64; raises ConfigError when they need more than there is."""
    sizes = wholes("[data.partition] partition_sizes", partition_sizes)
    if sizes.sum() > samples:
        raise ConfigError(
            f"[data.partition] partition_sizes add up to {sizes.sum():,}, but there are {samples:,} training samples"
        )
    return sizes


def _ranks(clients: Any, samples: int) -> NDArray[np.float64]:
    return np.arange(1, enough(clients, samples) + 1, dtype=np.float64)


def _proportional(
    kind: str, units: NDArray[np.float64], samples: int
) -> NDArray[np.int64]:
    """Return floor(samples · units / Σ units); the last client takes the remainder, as in flwr-datasets."""
    sizes: NDArray[np.int64] = (units / units.sum() * samples).astype(np.int64)
    sizes[-1] += samples - sizes.sum()
    if sizes[0] == 0:
        raise ConfigError(
            f"[data.partition] kind = '{kind}' with clients = {len(units)} leaves {int((sizes == 0).sum())} clients "
            f"without any of the {samples:,} samples; use fewer clients"
        )
    return sizes


def _deal(
    sizes: NDArray[np.int64], samples: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    owners = np.full(samples, -1, np.int64)
    owners[rng.permutation(samples)[: sizes.sum()]] = np.repeat(
        np.arange(len(sizes)), sizes
    )
    return owners
