"""Samples of a batch, one by one, from files and folders, as a model's input takes them."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedlearn.clients.infer import png
from fedlearn.clients.infer.fitting import form_of
from fedlearn.clients.infer.model import ServedModel
from fedlearn.clients.infer.pictures import SUFFIXES as PICTURES
from fedlearn.clients.infer.pictures import read_picture
from fedlearn.clients.infer.tensors import Array
from fedlearn.data.stored import read_npy
from fedlearn.errors import DataError, UserError, reason_of
from fedlearn.text import first_few, is_number

FILES = (".npy", ".npz", ".csv", *PICTURES)
# In a folder each file is one sample.
FOLDER_FILES = (".npy", *PICTURES)


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
        self.form = form_of(model)
        self.path = path
        self.is_folder = path.is_dir()
        if not path.exists():
            raise UserError(f"there is no '{path}'")
        if not self.is_folder and path.suffix.lower() not in FILES:
            raise UserError(f"'{path}' is no folder and none of {', '.join(FILES)}")

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
        elif kind in PICTURES:
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
            if path.suffix.lower() in PICTURES:
                return NamedSample(name, self._picture(path))
            return NamedSample(name, self.form.checked(read_npy(path), name))
        except (DataError, OSError) as error:
            return NamedSample(name, None, reason_of(error))

    def _picture(self, path: Path) -> Array:
        picture = self.form.of_picture(read_picture(path))
        return self.form.checked(picture, path.name)

    def _of_array(self, kind: str) -> Array:
        """Return the samples (N, …) of a file of arrays."""
        array = read_npy(self.path) if kind == ".npy" else self._of_npz()
        # One sample alone has no axis for more.
        if array.ndim == len(self.form.shape):
            array = array[None]
        self.form.check(array.shape[1:], self.path.name)
        return array

    def _of_npz(self) -> Array:
        with _opened(self.path) as arrays:
            names = arrays.files
            for name in (self.form.name, "x"):
                if name in names:
                    return _member(arrays, name, self.path)
            # Of several, which one has the samples must be said by its name.
            if len(names) == 1:
                return _member(arrays, names[0], self.path)
        raise DataError(
            f"'{self.path}' has the arrays {first_few(names)}; name the samples "
            f"'{self.form.name}' or 'x'"
        )

    def _of_csv(self) -> Iterator[NamedSample]:
        """Yield a sample for each row of numbers; a first row of names is left out."""
        if -1 in self.form.shape:
            raise UserError("a .csv goes with a model whose samples have one size")
        number = 0
        with open(self.path, newline="", encoding="utf-8", errors="replace") as file:
            for line, row in enumerate(csv.reader(file), 1):
                if not row or (line == 1 and not is_number(row[0])):
                    continue
                name = str(number)
                number += 1
                try:
                    array = self.form.of_numbers(np.array(row, np.float64))
                    yield NamedSample(name, array)
                except (ValueError, OverflowError, DataError) as error:
                    reason = f"line {line}: {reason_of(error)}"
                    yield NamedSample(name, None, reason)


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
