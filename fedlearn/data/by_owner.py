"""Partitions by the owners that samples came from: a speaker, a person, a device."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fedlearn.data.checks import choice, flag, whole
from fedlearn.errors import ConfigError
from fedlearn.names import nearest

Ids = Mapping[str, NDArray[np.int64]]
MODES = (
    "allow-smaller",
    "allow-bigger",
    "drop-reminder",
    "strict",
)  # spelt as in flwr-datasets


def column(labels: NDArray[np.int64], ids: Ids, name: str) -> NDArray[np.int64]:
    """Return the column (N,) that ``partition_by`` names: "label" or an id column; raises ConfigError if unknown."""
    if name in ids:
        return ids[name]
    if name == "label":
        return labels
    raise ConfigError(
        f"[data.partition] partition_by = {name!r}: this data set has no such column."
        f"{nearest(str(name), ids)} It has: {', '.join([*ids, 'label'])}"
    )


def natural_id(
    labels: NDArray[np.int64], ids: Ids, partition_by: str = "client"
) -> NDArray[np.int64]:
    """Make every natural owner one client, in ascending order of its id."""
    return np.unique(column(labels, ids, partition_by), return_inverse=True)[1].reshape(
        -1
    )


def grouped_natural_id(
    labels: NDArray[np.int64],
    ids: Ids,
    group_size: int,
    partition_by: str = "client",
    mode: str = "allow-smaller",
    sort_unique_ids: bool = False,
) -> NDArray[np.int64]:
    """Make every ``group_size`` natural owners one client, in order of first appearance or sorted.

    mode: what happens to the remainder: "allow-smaller" makes a smaller last group, "allow-bigger" spreads it
    over the first groups, "drop-reminder" leaves it out, "strict" raises ConfigError.
    """
    natural, first, inverse = np.unique(
        column(labels, ids, partition_by), return_index=True, return_inverse=True
    )
    group_of = _groups(
        len(natural), whole("[data.partition] group_size", group_size), mode
    )
    if not flag("[data.partition] sort_unique_ids", sort_unique_ids):
        appearance = np.empty(len(natural), np.int64)
        appearance[np.argsort(first)] = np.arange(len(natural))
        group_of = group_of[appearance]
    return group_of[inverse.reshape(-1)]


def _groups(owners: int, group_size: int, mode: str) -> NDArray[np.int64]:
    """Return the group number of each of ``owners`` natural ids in order; −1 where dropped."""
    choice("[data.partition] mode", mode, MODES)
    groups, remainder = divmod(owners, group_size)
    if mode != "allow-smaller" and groups == 0:
        raise ConfigError(
            f"[data.partition] group_size = {group_size} is more than the {owners} natural owners"
        )
    if mode == "strict" and remainder:
        raise ConfigError(
            f"[data.partition] mode = 'strict': {owners} natural owners do not divide into groups of {group_size}; "
            "change group_size or mode"
        )
    if mode == "allow-bigger":
        sizes = np.full(groups, owners // groups) + (
            np.arange(groups) < owners % groups
        )
        return np.repeat(np.arange(groups), sizes)
    numbers = np.arange(owners) // group_size
    return (
        np.where(numbers < groups, numbers, -1) if mode == "drop-reminder" else numbers
    )
