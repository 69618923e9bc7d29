"""Samples to predict, in the files that people keep them in: npz, npy or a CSV of numbers."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np

from fedlearn.data.casts import Array
from fedlearn.data.stored import read_npy, read_npz
from fedlearn.errors import DataError
from fedlearn.text import is_number

FIX = (
    "save the samples with numpy.savez(path, x=…) or numpy.save(path, x), or write a "
    "row of numbers for each sample into a .csv"
)


def read_samples(path: Path) -> Array:
    """Return the samples of a file, (N, …), as they stand there.

    An npz holds them as ``x``. A CSV has a row for each sample, and perhaps a row of names
    before them. Raises DataError naming the file, the place in it and the fix.
    """
    if not path.is_file():
        raise DataError(f"'{path}': there is no such file; {FIX}")
    if path.suffix.lower() == ".csv":
        return _read_csv(path)
    if path.suffix.lower() == ".npy":
        return read_npy(path)
    return read_npz(path, ("x",), FIX, ())["x"]


def _read_csv(path: Path) -> Array:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"'{path}' cannot be read as CSV: {error}") from None
    # A row without any number is the columns' names.
    first = 1 if rows and not any(map(_is_finite, rows[0])) else 0
    if len(rows) == first:
        raise DataError(f"'{path}' holds no sample; {FIX}")
    width = len(rows[first])
    values = np.empty((len(rows) - first, width))
    for number, row in enumerate(rows[first:]):
        line = number + first + 1
        if len(row) != width:
            raise DataError(
                f"'{path}', row {line}: {len(row)} values, where row {first + 1} has {width}"
            )
        for column, text in enumerate(row):
            if not _is_finite(text):
                raise DataError(
                    f"'{path}', row {line}, column {column + 1}: '{text:.40}' is no number; "
                    "leave out the columns that the model was not trained on"
                )
            values[number, column] = float(text)
    return values


def _is_finite(text: str) -> bool:
    return is_number(text) and math.isfinite(float(text))
