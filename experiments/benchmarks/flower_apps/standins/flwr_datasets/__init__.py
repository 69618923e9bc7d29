"""A stand-in for `flwr_datasets` over the one for `datasets`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from datasets import Dataset, DatasetDict, load_dataset


class FederatedDataset:
    """A data set whose splits are divided by partitioners."""

    def __init__(
        self,
        dataset: str,
        partitioners: Mapping[str, Any] | None = None,
        preprocessor: Callable[[DatasetDict], DatasetDict] | None = None,
        **options: Any,
    ) -> None:
        """Take the hub's name, and a partitioner for each split.

        preprocessor: of no effect; the one that an example has moves half a million rows.
        """
        self._splits: DatasetDict = load_dataset(dataset)
        self._partitioners = dict(partitioners or {})

    def load_partition(self, partition_id: int, split: str = "train") -> Dataset:
        """Return a node's share of a split."""
        partitioner = self._partitioners[split]
        share: Dataset = partitioner.part(self._splits[split], partition_id)
        return share

    def load_split(self, split: str) -> Dataset:
        """Return a whole split."""
        return self._splits[split]
