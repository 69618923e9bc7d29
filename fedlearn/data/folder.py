"""``name = "dir"``: a folder in torchvision's IDX layout or LEAF's JSON layout, or one npz file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlearn.data.checks import wholes
from fedlearn.data.idx import read_idx
from fedlearn.data.leaf import read_leaf
from fedlearn.data.own import dataset
from fedlearn.data.samples import Dataset
from fedlearn.data.stored import read_npz
from fedlearn.errors import ConfigError, DataError

FIRST = "train-images-idx3-ubyte"


def folder(path: str, shape: list[int] | None = None) -> Dataset:
    """Return the data set at ``path``; ``shape`` [C, H, W] turns the flat lists of LEAF files into pictures.

    A folder: IDX files (plain or .gz) in it, in raw/ or in */raw/, or LEAF's train/*.json and test/*.json. A file:
    an npz with x_train, y_train, x_test, y_test and perhaps client_train. Nothing is ever unpickled.
    Raises DataError naming the file and what is wrong.
    """
    if not isinstance(path, str):
        raise ConfigError(f"[data] path = {path!r} is not the name of a folder")
    place = Path(path).expanduser()
    if place.is_file():
        return read_own_npz(place)
    if not place.is_dir():
        raise DataError(f"[data] path = '{path}': there is no such folder or file")
    for candidate in (place, place / "raw", *sorted(place.glob("*/raw"))):
        if any((candidate / f"{FIRST}{end}").is_file() for end in ("", ".gz")):
            return read_idx_folder(candidate)
    if (place / "train").is_dir():
        picture = (
            None if shape is None else tuple(wholes("[data] shape", shape).tolist())
        )
        return read_leaf(place, picture)
    raise DataError(
        f"[data] path = '{path}' holds neither {FIRST}[.gz] (IDX) nor train/*.json (LEAF)"
    )


def read_idx_folder(place: Path) -> Dataset:
    """Return the pictures and labels of the four IDX files in a folder."""
    x_train, y_train = _pair(place, "train")
    x_test, y_test = _pair(place, "t10k")
    return dataset(f"dir {place}", x_train, y_train, x_test, y_test)


def _pair(place: Path, part: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    images, labels = (
        _one(place, f"{part}-images-idx3-ubyte", 3),
        _one(place, f"{part}-labels-idx1-ubyte", 1),
    )
    if len(images) != len(labels):
        raise DataError(
            f"{place}: {part} has {len(images)} images and {len(labels)} labels"
        )
    return images, labels


def _one(place: Path, name: str, dimensions: int) -> NDArray[np.uint8]:
    path = next(
        (
            place / f"{name}{end}"
            for end in ("", ".gz")
            if (place / f"{name}{end}").is_file()
        ),
        None,
    )
    if path is None:
        raise DataError(f"{place} has no {name} (or {name}.gz)")
    array = read_idx(path)
    if array.ndim != dimensions:
        raise DataError(f"{path} has {array.ndim} dimensions instead of {dimensions}")
    return array


def read_own_npz(path: Path) -> Dataset:
    """Return the set in a user's npz file."""
    keys = ("x_train", "y_train", "x_test", "y_test")
    arrays: dict[str, Any] = read_npz(
        path,
        keys,
        "save it with numpy.savez(path, x_train=…, y_train=…, x_test=…, y_test=…)",
    )
    x_train, y_train, x_test, y_test = (arrays[key] for key in keys)
    return dataset(
        str(path), x_train, y_train, x_test, y_test, arrays.get("client_train")
    )
