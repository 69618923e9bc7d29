"""Partitioners of the stand-in: by the original's names and arguments."""

from __future__ import annotations

from typing import Any

import numpy as np
from datasets import Dataset


class IidPartitioner:
    """Even shares: every n-th row."""

    def __init__(self, num_partitions: int) -> None:
        """Take the number of shares."""
        self.count = num_partitions

    def part(self, dataset: Dataset, partition_id: int) -> Dataset:
        """Return one share."""
        return dataset.select(range(partition_id, len(dataset), self.count))


class _SizedPartitioner(IidPartitioner):
    """Shares of sizes that grow with the partition's number."""

    def weights(self) -> Any:
        """Return the relative sizes, in the order of the partitions."""
        raise NotImplementedError

    def part(self, dataset: Dataset, partition_id: int) -> Dataset:
        """Return one share: rows that follow each other."""
        shares = np.cumsum(self.weights() / self.weights().sum())
        ends = [0, *np.round(shares * len(dataset)).astype(int)]
        return dataset.select(range(ends[partition_id], ends[partition_id + 1]))


class LinearPartitioner(_SizedPartitioner):
    """Sizes as 1, 2, 3, …"""

    def weights(self) -> Any:
        """Return the relative sizes."""
        return np.arange(1.0, self.count + 1)


class SquarePartitioner(_SizedPartitioner):
    """Sizes as 1, 4, 9, …"""

    def weights(self) -> Any:
        """Return the relative sizes."""
        return np.arange(1.0, self.count + 1) ** 2


class ExponentialPartitioner(_SizedPartitioner):
    """Sizes as e, e², e³, …"""

    def weights(self) -> Any:
        """Return the relative sizes."""
        return np.exp(np.arange(1.0, self.count + 1))


class DirichletPartitioner:
    """Shares of each label that a Dirichlet distribution draws."""

    def __init__(
        self,
        num_partitions: int,
        partition_by: str,
        alpha: float,
        seed: int | None = 42,
        **options: Any,
    ) -> None:
        """Take the number of shares, the label's column and the concentration."""
        self.count = num_partitions
        self.label = partition_by
        self.alpha = alpha
        self.seed = seed

    def part(self, dataset: Dataset, partition_id: int) -> Dataset:
        """Return one share."""
        generator = np.random.default_rng(self.seed)
        labels = np.asarray(dataset[self.label])
        owners = np.empty(len(labels), int)
        for label in np.unique(labels):
            rows = np.flatnonzero(labels == label)
            shares = generator.dirichlet([self.alpha] * self.count)
            owners[rows] = generator.choice(self.count, len(rows), p=shares)
        return dataset.select(np.flatnonzero(owners == partition_id))


class VerticalSizePartitioner:
    """Shares of the columns, by their numbers; the active party's column is left out."""

    def __init__(
        self,
        partition_sizes: list[int],
        active_party_columns: str | list[str] | None = None,
        **options: Any,
    ) -> None:
        """Take how many columns each node has."""
        self.sizes = partition_sizes
        columns = active_party_columns or []
        self.active = [columns] if isinstance(columns, str) else columns

    def part(self, dataset: Dataset, partition_id: int) -> Dataset:
        """Return one share."""
        names = [name for name in dataset.column_names if name not in self.active]
        begin = sum(self.sizes[:partition_id])
        chosen = names[begin : begin + self.sizes[partition_id]]
        return Dataset({name: dataset.columns[name] for name in chosen})
