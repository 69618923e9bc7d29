"""Partitions that give every client only some classes. Legend: N samples, M clients, K classes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlearn.data.by_owner import Ids, column
from fedlearn.data.by_size import enough, even_sizes
from fedlearn.data.checks import DEFAULT_CLIENTS, choice, flag, number, whole
from fedlearn.errors import ConfigError

Labels = NDArray[np.int64]


def shard(
    labels: Labels,
    ids: Ids,
    rng: np.random.Generator,
    clients: int = DEFAULT_CLIENTS,
    num_shards_per_partition: int | None = None,
    shard_size: int | None = None,
    keep_incomplete_shard: bool = False,
    partition_by: str = "label",
) -> NDArray[np.int64]:
    """Sort by label, cut into shards and deal the shards at random.

    With ``num_shards_per_partition`` alone the size is ⌊N / (M · shards)⌋, which is McMahan's
    split: 2 shards for 100 clients are 600 samples each on MNIST. With ``shard_size`` alone, the
    first clients get one shard more where the shards do not divide evenly. Neither given means
    2 shards per client. Raises ConfigError for a wrong value, and for too few samples.

    Source: McMahan et al. (AISTATS 2017).
    """
    values = column(labels, ids, partition_by)
    clients = enough(clients, len(values))
    keep = flag("[data.partition] keep_incomplete_shard", keep_incomplete_shard)
    # McMahan's split is the default.
    if num_shards_per_partition is None and shard_size is None:
        num_shards_per_partition = 2
    per_client, length = _shard_plan(
        len(values), clients, num_shards_per_partition, shard_size
    )
    shards = len(values) // length
    # An incomplete shard is kept only where the config leaves one of the two numbers open.
    if keep and not (num_shards_per_partition and shard_size):
        shards = -(-len(values) // length)
    # Shards of each client, (M,).
    counts = np.full(clients, per_client)
    if per_client == 0:
        counts = even_sizes(shards, clients)
    if shards < counts.sum() or counts.min() == 0:
        raise ConfigError(
            f"[data.partition] kind = 'shard': {len(values):,} samples make {shards} "
            f"shards of {length}, too few for {clients} clients with "
            f"{max(per_client, 1)} each; use fewer clients or a smaller shard_size"
        )
    # The last place stands for the samples after the last shard, which nobody gets.
    owner_of_shard = np.full(shards + 1, -1, np.int64)
    # Shards beyond the clients' counts belong to nobody either.
    dealt = rng.permutation(shards)[: counts.sum()]
    owner_of_shard[dealt] = np.repeat(np.arange(clients), counts)
    places = np.arange(len(values))
    shard_of_place = np.minimum(places // length, shards)
    # A stable sort is the same on every machine; others order equal labels differently.
    by_label = np.argsort(values, kind="stable")
    owners = np.empty(len(values), np.int64)
    owners[by_label] = owner_of_shard[shard_of_place]
    return owners


def _shard_plan(
    samples: int, clients: int, per_client: Any, length: Any
) -> tuple[int, int]:
    """Return (shards per client, samples per shard); 0 shards mean as many as there are.

    Raises ConfigError for a wrong value, and for too few samples.
    """
    if per_client is not None:
        per_client = whole("[data.partition] num_shards_per_partition", per_client)
    if length is not None:
        return per_client or 0, whole("[data.partition] shard_size", length)
    shards = clients * per_client
    if samples < shards:
        raise ConfigError(
            f"[data.partition] kind = 'shard': {clients} clients with {per_client} "
            f"shards each need at least {shards:,} samples, but there are {samples:,}; "
            "use fewer clients or shards"
        )
    return per_client, samples // shards


def pathological(
    labels: Labels,
    ids: Ids,
    rng: np.random.Generator,
    clients: int = DEFAULT_CLIENTS,
    num_classes_per_partition: int = 2,
    class_assignment_mode: str = "random",
    partition_by: str = "label",
) -> NDArray[np.int64]:
    """Give every client exactly c classes, and split each class evenly among its clients.

    class_assignment_mode: "random" draws c classes per client, "first-deterministic" fixes the
    first as client mod K, "deterministic" takes client, client + 1, …. Samples of a class that
    no client drew belong to nobody. Raises ConfigError for a wrong value, and for a class with
    fewer samples than clients.

    Source: Li et al., "Federated Learning on Non-IID Data Silos" (ICDE 2022).
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
    # The smallest keys of a row win. Drawn in every mode, so that the modes leave the
    # generator in the same state.
    keys = rng.random((clients, len(classes)))
    mode = choice(
        "[data.partition] class_assignment_mode",
        class_assignment_mode,
        ("random", "first-deterministic", "deterministic"),
    )
    if mode == "deterministic":
        # Client p takes the classes from p on, around the circle.
        distance = np.arange(len(classes)) - np.arange(clients)[:, None]
        keys = (distance % len(classes)).astype(np.float64)
    elif mode == "first-deterministic":
        # Below every drawn key, which are in [0, 1).
        rows = np.arange(clients)
        keys[rows, rows % len(classes)] = -1.0
    chosen = np.argsort(keys, axis=1)[:, :per_client]
    has = np.zeros((clients, len(classes)), bool)
    np.put_along_axis(has, chosen, True, axis=1)
    return _split_evenly(classes, inverse.reshape(-1), has)


def _split_evenly(
    classes: Labels, inverse: Labels, has: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Return the owners (N,) where each class is split evenly among the clients that have it.

    inverse: (N,) the class of each sample. has: (M, K). Raises ConfigError for a class with
    fewer samples than clients.
    """
    owners = np.full(len(inverse), -1, np.int64)
    for k, name in enumerate(classes):
        holders = np.flatnonzero(has[:, k])
        samples = np.flatnonzero(inverse == k)
        if len(holders) > len(samples):
            raise ConfigError(
                f"[data.partition] kind = 'pathological': {len(holders)} clients want "
                f"class {name}, which has {len(samples)} samples; use fewer clients or "
                "class_assignment_mode = 'deterministic'"
            )
        # A class that no client drew stays nobody's.
        if len(holders):
            sizes = even_sizes(len(samples), len(holders))
            owners[samples] = np.repeat(holders, sizes)
    return owners


def distribution(
    labels: Labels,
    ids: Ids,
    rng: np.random.Generator,
    clients: int = DEFAULT_CLIENTS,
    distribution_array: list[list[float]] | None = None,
    num_unique_labels_per_partition: int = 2,
    preassigned_num_samples_per_label: int = 5,
    rescale: bool = True,
    sigma: float = 2.0,
    partition_by: str = "label",
) -> NDArray[np.int64]:
    """Give client p the classes p, p + 1, … mod K, in amounts taken from a table.

    distribution_array: (K, columns), columns = M · classes per client / K: row k splits class k
    among its clients. Without it the table is log-normal(0, sigma), FedProx's power law.
    ``rescale`` reads rows as proportions, on top of ``preassigned_num_samples_per_label`` for
    every client; otherwise they are counts. Raises ConfigError for a wrong value, where M is no
    multiple of K, and where a class has too few samples.

    Source: Li et al., FedProx (MLSys 2020).
    """
    values = column(labels, ids, partition_by)
    clients = enough(clients, len(values))
    classes, inverse = np.unique(values, return_inverse=True)
    inverse = inverse.reshape(-1)
    per_client = whole(
        "[data.partition] num_unique_labels_per_partition",
        num_unique_labels_per_partition,
        1,
        len(classes),
    )
    minimum = whole(
        "[data.partition] preassigned_num_samples_per_label",
        preassigned_num_samples_per_label,
        0,
    )
    if clients % len(classes):
        raise ConfigError(
            "[data.partition] kind = 'distribution' needs clients in multiples of "
            f"{len(classes)}, not {clients}"
        )
    shape = (len(classes), per_client * clients // len(classes))
    if distribution_array is None:
        spread = number("[data.partition] sigma", sigma)
        table = rng.lognormal(0.0, spread, shape)
        # Log-normal numbers are proportions, whatever the config says of its own table.
        rescale = True
    else:
        table = _table(distribution_array, shape)
    if flag("[data.partition] rescale", rescale):
        counts = np.bincount(inverse, minlength=len(classes))
        shares = _amounts(table, counts, minimum, rng)
    else:
        shares = table.astype(np.int64)
    return _hand_out_runs(classes, inverse, shares, clients, per_client, rng)


def _hand_out_runs(
    classes: Labels,
    inverse: Labels,
    shares: NDArray[np.int64],
    clients: int,
    per_client: int,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Return the owners (N,) where client p holds ``per_client`` classes from p mod K on.

    inverse: (N,) the class of each sample. shares: (K, columns) samples for each client that
    holds the class, in ascending order of clients. Raises ConfigError for a class with too few.
    """
    owners = np.full(len(inverse), -1, np.int64)
    for k, name in enumerate(classes):
        samples = rng.permutation(np.flatnonzero(inverse == k))
        # How far the class lies after each client's first class, around the circle.
        distance = (k - np.arange(clients)) % len(classes)
        holders = np.flatnonzero(distance < per_client)
        total = shares[k].sum()
        if total > len(samples):
            raise ConfigError(
                f"[data.partition] distribution_array asks for {total:,} samples of "
                f"class {name}, which has {len(samples):,}; lower its row or set "
                "rescale = true"
            )
        owners[samples[:total]] = np.repeat(holders, shares[k])
    return owners


def _table(rows: Any, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Return the user's table; raises ConfigError unless it has this shape and usable numbers."""
    try:
        table = np.asarray(rows, np.float64)
    # Rows of several lengths, or words: a shape that cannot fit.
    except (TypeError, ValueError):
        table = np.empty(0)
    usable = (
        table.shape == shape
        and np.isfinite(table).all()
        and (table >= 0).all()
        and (table.sum(axis=1) > 0).all()
    )
    if not usable:
        raise ConfigError(
            f"[data.partition] distribution_array must be {shape[0]} rows (classes) of "
            f"{shape[1]} numbers (classes per client x clients / classes), at least 0 "
            "and not all 0 in a row"
        )
    return table


def _amounts(
    table: NDArray[np.float64], counts: Labels, minimum: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return samples per (class, column): ``minimum`` for all, the others by proportion.

    What rounding leaves of a class goes to one column at random. Raises ConfigError for a class
    with too few samples.
    """
    columns = table.shape[1]
    divisible = counts - minimum * columns
    if (divisible < 0).any():
        raise ConfigError(
            f"[data.partition] preassigned_num_samples_per_label = {minimum} needs "
            f"{minimum * columns} samples of every class, but one has {counts.min()}; "
            "lower it"
        )
    proportions = table / table.sum(axis=1, keepdims=True)
    shares: NDArray[np.int64] = np.floor(proportions * divisible[:, None]).astype(
        np.int64
    )
    shares += minimum
    # Without this, rounding down would leave up to one sample per column to nobody.
    lucky = rng.integers(columns, size=len(shares))
    shares[np.arange(len(shares)), lucky] += counts - shares.sum(axis=1)
    return shares
