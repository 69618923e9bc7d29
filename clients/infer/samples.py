"""Samples of a batch, one by one, from files and folders, as a model's input takes them.

Raw samples, as training data has them, are prepared as the package says. Samples in the
input's own dtype are taken as they are.
"""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedlearn.clients.infer import png
from fedlearn.clients.infer.model import ServedModel, TensorPort
from fedlearn.clients.infer.tensors import Array, fits
from fedlearn.errors import DataError, UserError, reason_of
from fedlearn.text import first_few

FILES = (".npy", ".npz", ".csv", ".png")
# In a folder each file is one sample.
FOLDER_FILES = (".npy", ".png")


# `eq=False`: arrays have no truth value.
@dataclass(frozen=True, eq=False)
class NamedSample:
    """One sample of a source, without the batch's axis; error: why it could not be read."""

    name: str
    array: Array | None
    error: str = ""


class SampleSource:
    """The samples of a file or a folder, in an order that is always the same."""

    def __init__(self, path: Path, model: ServedModel) -> None:
        """Look at a path; raises UserError for one, or for a model, that makes no batch."""
        if len(model.inputs) != 1:
            raise UserError(
                f"the model has {len(model.inputs)} inputs; a batch goes into a single one"
            )
        self.port: TensorPort = model.inputs[0]
        if not self.port.shape or self.port.shape[0] not in (-1, 1):
            raise UserError("the model's input has no axis along which samples lie")
        self.path = path
        # What raw samples are, where the model says it.
        self.dtype = model.raw.dtype if model.raw else self.port.dtype
        self.is_folder = path.is_dir()
        if not path.exists():
            raise UserError(f"there is no '{path}'")
        if not self.is_folder and path.suffix.lower() not in FILES:
            raise UserError(f"'{path}' is no folder and none of {', '.join(FILES)}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Return a sample's shape; -1 is an axis of any length."""
        return self.port.shape[1:]

    def count(self) -> int | None:
        """Return how many samples there are; None: nobody knows before the end."""
        return len(self._names()) if self.is_folder else None

    def samples(self) -> Iterator[NamedSample]:
        """Yield all samples. Raises DataError for a file that has none."""
        if self.is_folder:
            for name in self._names():
                yield self._of_folder(name)
            return
        kind = self.path.suffix.lower()
        if kind == ".csv":
            yield from self._of_csv()
        elif kind == ".png":
            yield NamedSample(self.path.name, self._picture(self.path))
        else:
            for number, array in enumerate(self._of_array(kind)):
                yield NamedSample(str(number), array)

    def _names(self) -> list[str]:
        names = [
            entry.name
            for entry in self.path.iterdir()
            if entry.suffix.lower() in FOLDER_FILES and entry.name.isprintable()
        ]
        if not names:
            raise DataError(f"'{self.path}' has no {' or '.join(FOLDER_FILES)} files")
        return sorted(names, key=png.natural_order)

    def _of_folder(self, name: str) -> NamedSample:
        """Return the sample of a file; of one that cannot be read, why."""
        path = self.path / name
        try:
            if path.suffix.lower() == ".png":
                return NamedSample(name, self._picture(path))
            array = _loaded(path)
            self._check(array.shape, name)
            return NamedSample(name, array)
        except (DataError, OSError) as error:
            return NamedSample(name, None, reason_of(error))

    def _picture(self, path: Path) -> Array:
        pixels = png.read(path.read_bytes(), path.name)
        array = pixels.transpose(2, 0, 1)
        # Alpha, which a picture may have and a model hardly ever.
        channels = self.shape[0] if self.shape else 0
        if len(array) in (2, 4) and channels == len(array) - 1:
            array = array[:channels]
        self._check(array.shape, path.name)
        return np.ascontiguousarray(array)

    def _of_array(self, kind: str) -> Array:
        """Return the samples (N, …) of a file of arrays."""
        array = _loaded(self.path) if kind == ".npy" else self._of_npz()
        # One sample alone has no axis for more.
        if array.ndim == len(self.shape):
            array = array[None]
        self._check(array.shape[1:], self.path.name)
        return array

    def _of_npz(self) -> Array:
        with _opened(self.path) as arrays:
            names = arrays.files
            for name in (self.port.name, "x"):
                if name in names:
                    return _member(arrays, name, self.path)
            # Of several, which one has the samples must be said by its name.
            if len(names) == 1:
                return _member(arrays, names[0], self.path)
        raise DataError(
            f"'{self.path}' has the arrays {first_few(names)}; name the samples "
            f"'{self.port.name}' or 'x'"
        )

    def _of_csv(self) -> Iterator[NamedSample]:
        """Yield a sample for each row of numbers; a first row of names is left out."""
        if -1 in self.shape:
            raise UserError("a .csv goes with a model whose samples have one size")
        size = int(np.prod(self.shape))
        number = 0
        with open(self.path, newline="", encoding="utf-8", errors="replace") as file:
            for line, row in enumerate(csv.reader(file), 1):
                if not row or (line == 1 and not _is_number(row[0])):
                    continue
                name = str(number)
                number += 1
                try:
                    yield NamedSample(name, self._row(row, size))
                except (ValueError, OverflowError, DataError) as error:
                    reason = f"line {line}: {reason_of(error)}"
                    yield NamedSample(name, None, reason)

    def _row(self, row: list[str], size: int) -> Array:
        if len(row) != size:
            raise DataError(f"{len(row)} values, and a sample has {size}")
        values = np.array(row, np.float64)
        array = values.astype(self.dtype)
        if self.dtype.kind in "iub" and not np.array_equal(array, values):
            raise DataError(f"a value is no {self.dtype.name}")
        return array.reshape(self.shape)

    def _check(self, shape: tuple[int, ...], name: str) -> None:
        if not fits(self.shape, shape):
            raise DataError(
                f"'{name}' has samples of shape {list(shape)}, and the model takes "
                f"{list(self.shape)}"
            )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _loaded(path: Path) -> Array:
    """Return the array of a .npy file; raises DataError. No pickle is ever read."""
    try:
        array: Array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"'{path}' is no array of numpy: {reason_of(error)}") from None
    return array


def _opened(path: Path) -> Any:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise DataError(
            f"'{path}' has no arrays of numpy: {reason_of(error)}"
        ) from None


def _member(arrays: Any, name: str, path: Path) -> Array:
    try:
        array: Array = arrays[name]
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise DataError(f"'{path}': '{name}': {reason_of(error)}") from None
    return array
