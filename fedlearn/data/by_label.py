"""Partitions that give every client only some classes. Legend: N samples, M clients, K classes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlearn.data.by_owner import Ids, column
from fedlearn.data.by_size import enough
from fedlearn.data.checks import choice, flag, number, whole
from fedlearn.data.partition import CLIENTS
from fedlearn.errors import ConfigError

Labels = NDArray[np.int64]


def shard(
    labels: Labels,
    ids: Ids,
    rng: np.random.Generator,
    clients: int = CLIENTS,
    num_shards_per_partition: int | None = None,
    shard_size: int | None = None,
    keep_incomplete_shard: bool = False,
    partition_by: str = "label",
) -> NDArray[np.int64]:
    """Sort by label, cut into shards and deal the shards at random (McMahan et al., AISTATS 2017).

    With ``num_shards_per_partition`` alone the size is N // (M · shards), which is McMahan's split: 2 shards for
    100 clients are 600 samples each on MNIST. With ``shard_size`` alone, the first clients get one shard more where
    the shards do not divide evenly. Neither given means 2 shards per client.
    """
    values = column(labels, ids, partition_by)
    clients = enough(clients, len(values))
    keep = flag("[data.partition] keep_incomplete_shard", keep_incomplete_shard)
    if num_shards_per_partition is None and shard_size is None:
        num_shards_per_partition = 2
    per_client, length = _shards(
        len(values), clients, num_shards_per_partition, shard_size
    )
    there = (
        -(-len(values) // length)
        if keep and not (num_shards_per_partition and shard_size)
        else len(values) // length
    )
    if per_client == 0:
        per_client_all = np.full(clients, there // clients) + (
            np.arange(clients) < there % clients
        )
    else:
        per_client_all = np.full(clients, per_client)
    if there < per_client_all.sum() or per_client_all.min() == 0:
        raise ConfigError(
            f"[data.partition] kind = 'shard': {len(values):,} samples make {there} shards of {length}, too few for "
            f"{clients} clients with {max(per_client, 1)} each; use fewer clients or a smaller shard_size"
        )
    owner_of_shard = np.full(
        there + 1, -1, np.int64
    )  # one more for the tail that is left out
    dealt = rng.permutation(there)[: per_client_all.sum()]
    owner_of_shard[dealt] = np.repeat(np.arange(clients), per_client_all)
    owners = np.empty(len(values), np.int64)
    owners[np.argsort(values, kind="stable")] = owner_of_shard[
        np.minimum(np.arange(len(values)) // length, there)
    ]
    return owners


def _shards(
    samples: int, clients: int, per_client: Any, length: Any
) -> tuple[int, int]:
    """Return (shards per client or 0 for "as many as there are", samples per shard)."""
    if per_client is not None:
        per_client = whole("[data.partition] num_shards_per_partition", per_client)
    if length is not None:
        return per_client or 0, whole("[data.partition] shard_size", length)
    if samples < clients * per_client:
        raise ConfigError(
            f"[data.partition] kind = 'shard': {clients} clients with {per_client} shards each need at least "
            f"{clients * per_client:,} samples, but there are {samples:,}; use fewer clients or shards"
        )
    return per_client, samples // (clients * per_client)


def pathological(
    labels: Labels,
    ids: Ids,
    rng: np.random.Generator,
    clients: int = CLIENTS,
    num_classes_per_partition: int = 2,
    class_assignment_mode: str = "random",
    partition_by: str = "label",
) -> NDArray[np.int64]:
    """Give every client exactly c classes, and split each class evenly among its clients.

    Li et al., "Federated Learning on Non-IID Data Silos", ICDE 2022. class_assignment_mode: "random" draws c classes
    per client, "first-deterministic" fixes the first as client mod K, "deterministic" takes client, client + 1, ….
    Samples of a class that no client drew belong to nobody.
    """
    values = column(labels, ids, partition_by)
    clients = enough(clients, len(values))
    classes, inverse = np.unique(values, return_inverse=True)
    per_client = whole(
        "[data.partition] num_classes_per_partition",
        num_classes_per_partition,
        1,
        len(classes),
    )
    keys = rng.random((clients, len(classes)))
    mode = choice(
        "[data.partition] class_assignment_mode",
        class_assignment_mode,
        ("random", "first-deterministic", "deterministic"),
    )
    if mode == "deterministic":
        keys = (
            (np.arange(len(classes)) - np.arange(clients)[:, None]) % len(classes)
        ).astype(np.float64)
    elif mode == "first-deterministic":
        keys[np.arange(clients), np.arange(clients) % len(classes)] = -1.0
    drawn = np.argsort(keys, axis=1)[:, :per_client]
    has = np.zeros((clients, len(classes)), bool)
    np.put_along_axis(has, drawn, True, axis=1)
    return _split_evenly(classes, inverse.reshape(-1), has)


def _split_evenly(
    classes: Labels, inverse: Labels, has: NDArray[np.bool_]
) -> NDArray[np.int64]:
    owners = np.full(len(inverse), -1, np.int64)
    for k, name in enumerate(classes):
        holders = np.flatnonzero(has[:, k])
        samples = np.flatnonzero(inverse == k)
        if len(holders) > len(samples):
            raise ConfigError(
                f"[data.partition] kind = 'pathological': {len(holders)} clients want class {name}, which has "
                f"{len(samples)} samples; use fewer clients or class_assignment_mode = 'deterministic'"
            )
        if len(holders):
            sizes = len(samples) // len(holders) + (
                np.arange(len(holders)) < len(samples) % len(holders)
            )
            owners[samples] = np.repeat(holders, sizes)
    return owners


def distribution(
    labels: Labels,
    ids: Ids,
    rng: np.random.Generator,
    clients: int = CLIENTS,
    distribution_array: list[list[float]] | None = None,
    num_unique_labels_per_partition: int = 2,
    preassigned_num_samples_per_label: int = 5,
    rescale: bool = True,
    sigma: float = 2.0,
    partition_by: str = "label",
) -> NDArray[np.int64]:
    """Give client p the classes p, p + 1, … mod K, in amounts taken from a table (Li et al., FedProx, MLSys 2020).

    distribution_array: (K, columns), columns = M · classes per client / K: row k splits class k among its clients;
    without it the table is log-normal(0, sigma), FedProx's power law. ``rescale`` reads rows as proportions, on top
    of ``preassigned_num_samples_per_label`` for everyone; otherwise they are counts. M must be a multiple of K.
    """
    values = column(labels, ids, partition_by)
    clients = enough(clients, len(values))
    classes, inverse = np.unique(values, return_inverse=True)
    kinds = len(classes)
    each = whole(
        "[data.partition] num_unique_labels_per_partition",
        num_unique_labels_per_partition,
        1,
        kinds,
    )
    first = whole(
        "[data.partition] preassigned_num_samples_per_label",
        preassigned_num_samples_per_label,
        0,
    )
    if clients % kinds:
        raise ConfigError(
            f"[data.partition] kind = 'distribution' needs clients in multiples of {kinds}, not {clients}"
        )
    columns = each * clients // kinds
    if distribution_array is None:
        table = rng.lognormal(
            0.0, number("[data.partition] sigma", sigma), (kinds, columns)
        )
        rescale = True
    else:
        table = _table(distribution_array, (kinds, columns))
    counts = np.bincount(inverse.reshape(-1), minlength=kinds)
    shares = (
        _amounts(table, counts, first, rng)
        if flag("[data.partition] rescale", rescale)
        else table.astype(np.int64)
    )
    owners = np.full(len(values), -1, np.int64)
    for k, name in enumerate(classes):
        samples = rng.permutation(np.flatnonzero(inverse.reshape(-1) == k))
        holders = np.flatnonzero((k - np.arange(clients)) % kinds < each)
        if shares[k].sum() > len(samples):
            raise ConfigError(
                f"[data.partition] distribution_array asks for {shares[k].sum():,} samples of class {name}, "
                f"which has {len(samples):,}; lower its row or set rescale = true"
            )
        owners[samples[: shares[k].sum()]] = np.repeat(holders, shares[k])
    return owners


def _table(rows: Any, shape: tuple[int, int]) -> NDArray[np.float64]:
    try:
        table = np.asarray(rows, np.float64)
    except (TypeError, ValueError):
        table = np.empty(0)
    if (
        table.shape != shape
        or not np.isfinite(table).all()
        or (table < 0).any()
        or (table.sum(axis=1) <= 0).any()
    ):
        raise ConfigError(
            f"[data.partition] distribution_array must be {shape[0]} rows (classes) of {shape[1]} numbers "
            "(classes per client x clients / classes), at least 0 and not all 0 in a row"
        )
    return table


def _amounts(
    table: NDArray[np.float64], counts: Labels, first: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return samples per (class, column): ``first`` for all, the rest by proportion, the remainder to one at random."""
    left = counts - first * table.shape[1]
    if (left < 0).any():
        raise ConfigError(
            f"[data.partition] preassigned_num_samples_per_label = {first} needs {first * table.shape[1]} samples of "
            f"every class, but one has {counts.min()}; lower it"
        )
    shares: NDArray[np.int64] = (
        np.floor(table / table.sum(axis=1, keepdims=True) * left[:, None]).astype(
            np.int64
        )
        + first
    )
    shares[np.arange(len(shares)), rng.integers(table.shape[1], size=len(shares))] += (
        counts - shares.sum(axis=1)
    )
    return shares
