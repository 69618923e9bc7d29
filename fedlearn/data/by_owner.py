"""Partitions by the owners that samples came from: a speaker, a person, a device."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fedlearn.data.by_size import even_sizes
from fedlearn.data.checks import choice, flag, whole
from fedlearn.errors import ConfigError
from fedlearn.names import nearest

Ids = Mapping[str, NDArray[np.int64]]

# Spelt as in flwr-datasets, "reminder" included, so that its configs can be copied.
MODES = ("allow-smaller", "allow-bigger", "drop-reminder", "strict")


def column(labels: NDArray[np.int64], ids: Ids, name: str) -> NDArray[np.int64]:
    """Return the column (N,) that ``partition_by`` names: "label" or an id column.

    Raises ConfigError for an unknown name.
    """
    # A set's own column wins over the word "label".
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
    """Make every natural owner one client, in ascending order of its id.

    Raises ConfigError for an unknown column.
    """
    values = column(labels, ids, partition_by)
    _, owners = np.unique(values, return_inverse=True)
    # numpy 2.0 alone returns the inverse in the shape of its input.
    return owners.reshape(-1)


def grouped_natural_id(
    labels: NDArray[np.int64],
    ids: Ids,
    group_size: int,
    partition_by: str = "client",
    mode: str = "allow-smaller",
    sort_unique_ids: bool = False,
) -> NDArray[np.int64]:
    """Make every ``group_size`` natural owners one client, in order of appearance or sorted.

    mode: what happens to the remaining owners: "allow-smaller" makes a smaller last group,
    "allow-bigger" spreads them over the first groups, "drop-reminder" leaves them out, "strict"
    raises ConfigError. Raises ConfigError for any wrong value.
    """
    values = column(labels, ids, partition_by)
    natural, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    per_group = whole("[data.partition] group_size", group_size)
    group_of = _groups(len(natural), per_group, mode)
    if not flag("[data.partition] sort_unique_ids", sort_unique_ids):
        # The rank of each owner by its first sample: the inverse of the sorting permutation.
        owners = len(natural)
        appearance = np.empty(owners, np.int64)
        appearance[np.argsort(first)] = np.arange(owners)
        group_of = group_of[appearance]
    return group_of[inverse.reshape(-1)]


def _groups(owners: int, group_size: int, mode: str) -> NDArray[np.int64]:
    """Return the group of each natural owner in order, (owners,); −1 where dropped.

    Raises ConfigError for an unknown mode, and for a remainder where mode is "strict".
    """
    choice("[data.partition] mode", mode, MODES)
    groups, remainder = divmod(owners, group_size)
    if mode != "allow-smaller" and groups == 0:
        raise ConfigError(
            f"[data.partition] group_size = {group_size} is more than the {owners} "
            "natural owners"
        )
    if mode == "strict" and remainder:
        raise ConfigError(
            f"[data.partition] mode = 'strict': {owners} natural owners do not divide "
            f"into groups of {group_size}; change group_size or mode"
        )
    if mode == "allow-bigger":
        return np.repeat(np.arange(groups), even_sizes(owners, groups))
    numbers = np.arange(owners) // group_size
    # The last group is incomplete where the numbers do not divide.
    if mode == "drop-reminder":
        return np.where(numbers < groups, numbers, -1)
    return numbers
