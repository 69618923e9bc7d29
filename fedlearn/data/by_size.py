"""Partitions that look at nothing but sizes. Legend: N samples, M clients."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlearn.data.checks import DEFAULT_CLIENTS, whole, wholes
from fedlearn.errors import ConfigError

Labels = NDArray[np.int64]


def enough(clients: Any, samples: int) -> int:
    """Return the number of clients; raises ConfigError when it is not in 1 … samples."""
    count = whole("[data.partition] clients", clients)
    if count > samples:
        raise ConfigError(
            f"[data.partition] clients = {count:,} is more than the {samples:,} "
            "training samples; use fewer clients or more data"
        )
    return count


def even_sizes(total: int, parts: int) -> NDArray[np.int64]:
    """Return ``parts`` sizes that sum to ``total``; the first total mod parts are one larger."""
    share, remainder = divmod(total, parts)
    sizes: NDArray[np.int64] = np.full(parts, share) + (np.arange(parts) < remainder)
    return sizes


def iid(
    labels: Labels, rng: np.random.Generator, clients: int = DEFAULT_CLIENTS
) -> NDArray[np.int64]:
    """Give every client an equal random share; the first N mod M clients get one sample more.

    Raises ConfigError for more clients than samples.
    """
    clients = enough(clients, len(labels))
    return _deal(even_sizes(len(labels), clients), len(labels), rng)


def size(
    labels: Labels, rng: np.random.Generator, partition_sizes: list[int]
) -> NDArray[np.int64]:
    """Give client k ``partition_sizes[k]`` random samples; what is left over belongs to nobody.

    Raises ConfigError for sizes that need more samples than there are.
    """
    return _deal(listed_sizes(partition_sizes, len(labels)), len(labels), rng)


def linear(
    labels: Labels, rng: np.random.Generator, clients: int = DEFAULT_CLIENTS
) -> NDArray[np.int64]:
    """Give client i = 1 … M a random share in proportion to i.

    Raises ConfigError where a client would get no sample.
    """
    ranks = _ranks(clients, len(labels))
    return _deal(_proportional("linear", ranks, len(labels)), len(labels), rng)


def square(
    labels: Labels, rng: np.random.Generator, clients: int = DEFAULT_CLIENTS
) -> NDArray[np.int64]:
    """Give client i = 1 … M a random share in proportion to i².

    Raises ConfigError where a client would get no sample.
    """
    ranks = _ranks(clients, len(labels))
    return _deal(_proportional("square", ranks**2, len(labels)), len(labels), rng)


def exponential(
    labels: Labels, rng: np.random.Generator, clients: int = DEFAULT_CLIENTS
) -> NDArray[np.int64]:
    """Give client i = 1 … M a random share in proportion to exp(i).

    Raises ConfigError where a client would get no sample.
    """
    ranks = _ranks(clients, len(labels))
    # exp(i − M) has the same proportions as exp(i) and does not overflow.
    units = np.exp(ranks - ranks[-1])
    return _deal(_proportional("exponential", units, len(labels)), len(labels), rng)


def listed_sizes(partition_sizes: Any, samples: int) -> NDArray[np.int64]:
    """Return the user's sizes as (M,) int64.

    Raises ConfigError when they need more samples than there are.
    """
    sizes = wholes("[data.partition] partition_sizes", partition_sizes)
    if sizes.sum() > samples:
        raise ConfigError(
            f"[data.partition] partition_sizes add up to {sizes.sum():,}, "
            f"but there are {samples:,} training samples"
        )
    return sizes


def _ranks(clients: Any, samples: int) -> NDArray[np.float64]:
    """Return 1 … M, (M,) float64."""
    return np.arange(1, enough(clients, samples) + 1, dtype=np.float64)


def _proportional(
    kind: str, units: NDArray[np.float64], samples: int
) -> NDArray[np.int64]:
    """Return ⌊samples · units / Σ units⌋; the last client takes the remainder.

    So does flwr-datasets. Raises ConfigError where a client would get no sample.
    """
    sizes: NDArray[np.int64] = (units / units.sum() * samples).astype(np.int64)
    sizes[-1] += samples - sizes.sum()
    # Units ascend, so the first client has the smallest share.
    if sizes[0] == 0:
        empty = int((sizes == 0).sum())
        raise ConfigError(
            f"[data.partition] kind = '{kind}' with clients = {len(units)} leaves "
            f"{empty} clients without any of the {samples:,} samples; use fewer clients"
        )
    return sizes


def _deal(
    sizes: NDArray[np.int64], samples: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return the owners (N,) of samples dealt at random, ``sizes[k]`` to client k."""
    owners = np.full(samples, -1, np.int64)
    dealt = rng.permutation(samples)[: sizes.sum()]
    owners[dealt] = np.repeat(np.arange(len(sizes)), sizes)
    return owners
