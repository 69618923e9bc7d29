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
    sizes = np.full(parts, share)
    sizes[:remainder] += 1
    return sizes


def iid(
    labels: Labels, rng: np.random.Generator, clients: int = DEFAULT_CLIENTS
) -> NDArray[np.int64]:
    """Give every client an equal random share; the first N mod M clients get one sample more.

    Raises ConfigError for more clients than samples.
    """
    samples = len(labels)
    clients = enough(clients, samples)
    sizes = even_sizes(samples, clients)
    return _deal(sizes, samples, rng)


def size(
    labels: Labels, rng: np.random.Generator, partition_sizes: list[int]
) -> NDArray[np.int64]:
    """Give client k ``partition_sizes[k]`` random samples; what is left over belongs to nobody.

    Raises ConfigError for sizes that need more samples than there are.
    """
    samples = len(labels)
    sizes = listed_sizes(partition_sizes, samples)
    return _deal(sizes, samples, rng)


def linear(
    labels: Labels, rng: np.random.Generator, clients: int = DEFAULT_CLIENTS
) -> NDArray[np.int64]:
    """Give client i = 1 … M a random share in proportion to i.

    Raises ConfigError where a client would get no sample.
    """
    samples = len(labels)
    ranks = _ranks(clients, samples)
    sizes = _proportional("linear", ranks, samples)
    return _deal(sizes, samples, rng)


def square(
    labels: Labels, rng: np.random.Generator, clients: int = DEFAULT_CLIENTS
) -> NDArray[np.int64]:
    """Give client i = 1 … M a random share in proportion to i².

    Raises ConfigError where a client would get no sample.
    """
    samples = len(labels)
    ranks = _ranks(clients, samples)
    sizes = _proportional("square", ranks**2, samples)
    return _deal(sizes, samples, rng)


def exponential(
    labels: Labels, rng: np.random.Generator, clients: int = DEFAULT_CLIENTS
) -> NDArray[np.int64]:
    """Give client i = 1 … M a random share in proportion to exp(i).

    Raises ConfigError where a client would get no sample.
    """
    samples = len(labels)
    ranks = _ranks(clients, samples)
    # exp(i − M) has the same proportions as exp(i) and does not overflow.
    units = np.exp(ranks - ranks[-1])
    sizes = _proportional("exponential", units, samples)
    return _deal(sizes, samples, rng)


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
    count = enough(clients, samples)
    # Floats, because squares and exponentials follow.
    return np.arange(1, count + 1, dtype=np.float64)


def _proportional(
    kind: str, units: NDArray[np.float64], samples: int
) -> NDArray[np.int64]:
    """Return ⌊samples · units / Σ units⌋; the last client takes the remainder.

    So does flwr-datasets. Raises ConfigError where a client would get no sample.
    """
    exact = units / units.sum() * samples
    sizes: NDArray[np.int64] = exact.astype(np.int64)
    remainder = samples - sizes.sum()
    sizes[-1] += remainder
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
    clients = np.arange(len(sizes))
    owners = np.full(samples, -1, np.int64)
    # A shuffled deck: the first cards are the first client's, the last may be nobody's.
    deck = rng.permutation(samples)
    dealt = deck[: sizes.sum()]
    owners[dealt] = np.repeat(clients, sizes)
    return owners
