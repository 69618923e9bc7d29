"""``name = "dir"``: a folder in torchvision's IDX or LEAF's JSON layout, or one npz file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedlearn.data.checks import wholes
from fedlearn.data.idx import read_idx
from fedlearn.data.leaf import read_leaf
from fedlearn.data.own import dataset
from fedlearn.data.samples import Dataset
from fedlearn.data.stored import read_npz
from fedlearn.errors import ConfigError, DataError

# A folder with this file, plain or gzipped, is read as IDX.
FIRST = "train-images-idx3-ubyte"
# The files of the MNIST family are kept plain or gzipped.
ENDINGS = ("", ".gz")


def folder(path: str, shape: list[int] | None = None) -> Dataset:
    """Return the data set at ``path``; ``shape`` [C, H, W] turns LEAF's flat lists into pictures.

    A folder: IDX files (plain or .gz) in it, in raw/ or in */raw/, or LEAF's train/*.json and
    test/*.json. A file: an npz with x_train, y_train, x_test, y_test and perhaps client_train.
    Nothing is ever unpickled. Raises DataError naming the file and what is wrong, ConfigError
    for a path that is no text.
    """
    if not isinstance(path, str):
        raise ConfigError(f"[data] path = {path!r} is not the name of a folder")
    place = Path(path).expanduser()
    if place.is_file():
        return read_own_npz(place)
    if not place.is_dir():
        raise DataError(f"[data] path = '{path}': there is no such folder or file")
    # torchvision keeps the files of MNIST in MNIST/raw.
    for candidate in (place, place / "raw", *sorted(place.glob("*/raw"))):
        if _file_of(candidate, FIRST) is not None:
            return read_idx_folder(candidate)
    if (place / "train").is_dir():
        picture = None
        if shape is not None:
            picture = tuple(wholes("[data] shape", shape).tolist())
        return read_leaf(place, picture)
    raise DataError(
        f"[data] path = '{path}' holds neither {FIRST}[.gz] (IDX) "
        "nor train/*.json (LEAF)"
    )


def read_idx_folder(place: Path) -> Dataset:
    """Return the pictures and labels of the four IDX files in a folder.

    Raises DataError naming the file that is absent, damaged or of another shape.
    """
    x_train, y_train = _pair(place, "train")
    # The family's held-out part has the name of its size: t10k.
    x_test, y_test = _pair(place, "t10k")
    return dataset(f"dir {place}", x_train, y_train, x_test, y_test)


def _pair(place: Path, part: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the pictures (N, H, W) and labels (N,) of one part; raises DataError."""
    # idx3: pictures (N, H, W); idx1: labels (N,).
    images = _array(place, f"{part}-images-idx3-ubyte", 3)
    labels = _array(place, f"{part}-labels-idx1-ubyte", 1)
    pictures = len(images)
    if pictures != len(labels):
        raise DataError(
            f"{place}: {part} has {pictures} images and {len(labels)} labels"
        )
    return images, labels


def _array(place: Path, name: str, dimensions: int) -> NDArray[np.uint8]:
    """Return the array of an IDX file with so many dimensions; raises DataError otherwise."""
    path = _file_of(place, name)
    if path is None:
        raise DataError(f"{place} has no {name} (or {name}.gz)")
    array = read_idx(path)
    # The 3 of idx3 and the 1 of idx1 are the numbers of dimensions.
    if array.ndim != dimensions:
        raise DataError(f"{path} has {array.ndim} dimensions instead of {dimensions}")
    return array


def _file_of(place: Path, name: str) -> Path | None:
    """Return a file by its name, plain before gzipped; None: the folder has neither."""
    for ending in ENDINGS:
        path = place / f"{name}{ending}"
        if path.is_file():
            return path
    return None


def read_own_npz(path: Path) -> Dataset:
    """Return the set in a user's npz file; raises DataError naming what is absent or wrong."""
    keys = ("x_train", "y_train", "x_test", "y_test")
    fix = "save it with numpy.savez(path, x_train=…, y_train=…, x_test=…, y_test=…)"
    arrays = read_npz(path, keys, fix)
    x_train, y_train, x_test, y_test = (arrays[key] for key in keys)
    owners = arrays.get("client_train")
    return dataset(str(path), x_train, y_train, x_test, y_test, owners)
