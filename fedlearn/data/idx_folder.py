"""A folder of four IDX files: MNIST's and its family's, as torchvision and their authors name them.

The names of MNIST are ``train-images-idx3-ubyte``, ``t10k-labels-idx1-ubyte`` and so on. People
also have a dot before idx, ``test`` for t10k and a prefix for all, as EMNIST has.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedlearn.data.idx import read_idx
from fedlearn.data.own import dataset
from fedlearn.data.samples import Dataset
from fedlearn.errors import DataError

# The file that every folder of the family has, as an error names it.
FIRST = "train-images-idx3-ubyte"

_NAME = re.compile(
    r"(?:(?P<prefix>.+)-)?(?P<part>train|t10k|test)-(?P<what>images|labels)"
    r"[-.]idx[13]-ubyte(?:\.gz)?"
)

# (part, what) → file, such as ("train", "images").
_Files = dict[tuple[str, str], Path]


def holds_idx(place: Path) -> bool:
    """Return whether a folder has the pictures of a training part."""
    return any(("train", "images") in files for files in _families(place).values())


def read_idx_folder(place: Path, classes: int | None = None) -> Dataset:
    """Return the pictures and labels of the four IDX files in a folder.

    classes: as in `fedlearn.data.own.dataset`. Raises DataError naming the file that is absent,
    damaged or of another shape, and for a folder that holds several sets.
    """
    files = _files(place)
    x_train, y_train = _pair(place, files, "train")
    x_test, y_test = _pair(place, files, "t10k")
    return dataset(f"dir {place}", x_train, y_train, x_test, y_test, classes=classes)


def _families(place: Path) -> dict[str, _Files]:
    """Return the IDX files of a folder, by the prefix of their names; "": without one."""
    families: dict[str, _Files] = {}
    if not place.is_dir():
        return families
    # Sorted, so that a plain file wins over a gzipped one of its name.
    for path in sorted(place.iterdir(), reverse=True):
        match = _NAME.fullmatch(path.name)
        if match is None or not path.is_file():
            continue
        # The family's held-out part has the name of its size: t10k.
        part = "train" if match["part"] == "train" else "t10k"
        files = families.setdefault(match["prefix"] or "", {})
        files[part, match["what"]] = path
    return families


def _files(place: Path) -> _Files:
    """Return the files of the one set in a folder; raises DataError where there are several."""
    families = _families(place)
    # Names without a prefix are those of MNIST itself.
    if "" in families:
        return families[""]
    if len(families) != 1:
        names = ", ".join(sorted(families))
        raise DataError(
            f"{place} holds several sets ({names}); keep the files of one in a folder of "
            "its own"
        )
    return next(iter(families.values()))


def _pair(
    place: Path, files: _Files, part: str
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the pictures (N, H, W) and labels (N,) of one part; raises DataError."""
    # idx3: pictures (N, H, W); idx1: labels (N,).
    images = _array(place, files, (part, "images"), 3)
    labels = _array(place, files, (part, "labels"), 1)
    pictures = len(images)
    if pictures != len(labels):
        raise DataError(
            f"{place}: {part} has {pictures} images and {len(labels)} labels"
        )
    return images, labels


def _array(
    place: Path, files: _Files, key: tuple[str, str], dimensions: int
) -> NDArray[np.uint8]:
    """Return the array of an IDX file with so many dimensions; raises DataError otherwise."""
    path = files.get(key)
    if path is None:
        name = f"{key[0]}-{key[1]}-idx{dimensions}-ubyte"
        raise DataError(f"{place} has no {name} (or {name}.gz)")
    array = read_idx(path)
    # The 3 of idx3 and the 1 of idx1 are the numbers of dimensions.
    if array.ndim != dimensions:
        raise DataError(f"{path} has {array.ndim} dimensions instead of {dimensions}")
    return array
