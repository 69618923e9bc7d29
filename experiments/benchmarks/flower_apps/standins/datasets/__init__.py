"""A stand-in for Hugging Face's `datasets`: the part that Flower's examples use.

No hub can be reached where the comparison runs. Columns lie in memory; `standins.sources`
makes them of small data that fedlearn ships, or draws them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any
from zlib import crc32

import numpy as np

from datasets.sources import columns_of, pictures

Columns = Mapping[str, Any]
Transform = Callable[[dict[str, Any]], Mapping[str, Any]]


class Dataset:
    """Rows of named columns; a transform is applied to what is read, as in the original."""

    def __init__(
        self, columns: Columns, transform: Transform | None = None, form: str = ""
    ) -> None:
        """Take columns of one length. form: "pandas" gives data frames."""
        self.columns = dict(columns)
        self.transform = transform
        self.form = form

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(next(iter(self.columns.values())))

    @property
    def num_rows(self) -> int:
        """Return the number of rows."""
        return len(self)

    @property
    def shape(self) -> tuple[int, int]:
        """Return the numbers of rows and columns."""
        return len(self), len(self.columns)

    @property
    def column_names(self) -> list[str]:
        """Return the columns' names."""
        return list(self.columns)

    def __getitem__(self, key: Any) -> Any:
        """Return a column by its name, a row by its number, or rows as columns."""
        if isinstance(key, str):
            return self.columns[key]
        if isinstance(key, slice):
            return self._batch(range(len(self))[key])
        if isinstance(key, Iterable):
            return self._batch(list(key))
        batch = self._batch([key])
        return {name: column[0] for name, column in batch.items()}

    def __getitems__(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        """Return rows one by one, as torch's DataLoader asks for a batch."""
        batch = self._batch(numbers)
        return [
            {name: column[row] for name, column in batch.items()}
            for row in range(len(numbers))
        ]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield the rows."""
        for number in range(len(self)):
            yield self[number]

    def _batch(self, numbers: Sequence[int]) -> Any:
        columns = {name: _rows(c, numbers) for name, c in self.columns.items()}
        if self.form == "pandas":
            return _frame(columns)
        if self.transform is None:
            return columns
        # Lists, of which a transform may replace one by another.
        return self.transform({name: list(c) for name, c in columns.items()})

    def _like(self, columns: Columns) -> Dataset:
        return Dataset(columns, self.transform, self.form)

    def select(self, numbers: Iterable[int]) -> Dataset:
        """Return some rows, in their order."""
        rows = [int(number) for number in numbers]
        return self._like({name: _rows(c, rows) for name, c in self.columns.items()})

    def shuffle(self, seed: int | None = None) -> Dataset:
        """Return the rows in another order."""
        return self.select(np.random.default_rng(seed).permutation(len(self)))

    def train_test_split(
        self,
        test_size: float | None = None,
        train_size: float | None = None,
        seed: int | None = None,
        **options: Any,
    ) -> DatasetDict:
        """Return two parts of the rows, drawn by a seed."""
        share = test_size if test_size is not None else 1 - (train_size or 0.75)
        order = np.random.default_rng(seed).permutation(len(self))
        size = round(len(self) * share)
        return DatasetDict(
            train=self.select(order[size:]), test=self.select(order[:size])
        )

    def with_transform(self, transform: Transform) -> Dataset:
        """Return the rows as a function gives them when they are read."""
        return Dataset(self.columns, transform)

    def with_format(self, form: str) -> Dataset:
        """Return the rows in a form."""
        return Dataset(self.columns, self.transform, form)

    def set_format(self, form: str) -> None:
        """Have the rows in a form."""
        self.form = form

    def map(
        self, function: Transform, batched: bool = False, **options: Any
    ) -> Dataset:
        """Return the rows with the columns that a function of all of them adds."""
        if not batched:
            raise NotImplementedError("the stand-in maps batches: batched=True")
        columns = {name: list(column) for name, column in self.columns.items()}
        return self._like({**self.columns, **function(columns)})

    def remove_columns(self, names: str | list[str]) -> Dataset:
        """Return the rows without some columns."""
        removed = [names] if isinstance(names, str) else names
        return self._like({n: c for n, c in self.columns.items() if n not in removed})

    def rename_column(self, name: str, new_name: str) -> Dataset:
        """Return the rows with a column under another name."""
        names = {name: new_name}
        return self._like({names.get(n, n): c for n, c in self.columns.items()})

    def to_pandas(self) -> Any:
        """Return the rows as a data frame."""
        return _frame(self.columns)


class DatasetDict(dict[str, Dataset]):
    """Datasets by the names of their splits; what is done to it is done to each."""

    def with_transform(self, transform: Transform) -> DatasetDict:
        """See `Dataset.with_transform`."""
        return DatasetDict({k: d.with_transform(transform) for k, d in self.items()})

    def map(self, function: Transform, **options: Any) -> DatasetDict:
        """See `Dataset.map`."""
        return DatasetDict({k: d.map(function, **options) for k, d in self.items()})

    def remove_columns(self, names: str | list[str]) -> DatasetDict:
        """See `Dataset.remove_columns`."""
        return DatasetDict({k: d.remove_columns(names) for k, d in self.items()})

    def rename_column(self, name: str, new_name: str) -> DatasetDict:
        """See `Dataset.rename_column`."""
        return DatasetDict(
            {k: d.rename_column(name, new_name) for k, d in self.items()}
        )


def concatenate_datasets(parts: Sequence[Dataset]) -> Dataset:
    """Return the rows of several, one after another."""
    names = parts[0].column_names
    return Dataset({n: np.concatenate([p.columns[n] for p in parts]) for n in names})


def load_dataset(name: str, split: str | None = None, **options: Any) -> Any:
    """Return a data set by the hub's name: a split of it, or all splits."""
    if split is not None:
        return Dataset(columns_of(name, split))
    return DatasetDict({s: Dataset(columns_of(name, s)) for s in ("train", "test")})


def load_from_disk(path: str) -> DatasetDict:
    """Return what a device has prepared on its disk: pictures that its path chooses."""
    numbers = np.random.default_rng(crc32(path.encode())).permutation(1000)[:200]
    rows = Dataset(pictures("fashion-mini", "train", "image")).select(numbers)
    return rows.train_test_split(test_size=0.2, seed=42)


def _rows(column: Any, numbers: Sequence[int]) -> Any:
    if isinstance(column, np.ndarray):
        return column[np.asarray(numbers, int)]
    return [column[number] for number in numbers]


def _frame(columns: Columns) -> Any:
    import pandas

    # Texts as objects, which the examples select by.
    pandas.set_option("future.infer_string", False)
    return pandas.DataFrame({name: list(column) for name, column in columns.items()})
