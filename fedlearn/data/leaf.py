"""LEAF's JSON: folders train/ and test/ of files with users, num_samples and user_data (Caldas et al., 2018).

Every user is one natural client. Features are flat lists of numbers; the Shakespeare set has strings of characters
and the one that comes next.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlearn.data.own import dataset
from fedlearn.data.samples import IGNORE, Dataset
from fedlearn.errors import DataError

Pairs = tuple[
    NDArray[Any], NDArray[Any], list[str]
]  # x (N, …), y, and the user of each sample


def read_leaf(folder: Path, shape: tuple[int, ...] | None) -> Dataset:
    """Return the set in a LEAF folder; ``shape`` (C, H, W) says that a flat list is a picture.

    784 numbers from 0 to 1 are taken for a 28×28 picture (FEMNIST). Raises DataError naming the file and its defect.
    """
    x_train, y_train, users = _part(folder / "train", shape)
    x_test, y_test, _ = _part(folder / "test", shape)
    return dataset(f"dir {folder}", x_train, y_train, x_test, y_test, np.array(users))


def _part(folder: Path, shape: tuple[int, ...] | None) -> Pairs:
    files = sorted(folder.glob("*.json"))
    if not files:
        raise DataError(
            f"{folder} holds no .json file; a LEAF set has train/*.json and test/*.json"
        )
    inputs: list[Any] = []
    targets: list[Any] = []
    users: list[str] = []
    for file in files:
        for user, x, y in _users(file):
            inputs += x
            targets += y
            users += [user] * len(y)
    if not inputs:
        raise DataError(f"{folder} holds no samples")
    if isinstance(inputs[0], str):
        return (*_text(folder, inputs, targets), users)
    return (*_numbers(folder, inputs, targets, shape), users)


def _users(file: Path) -> Iterator[tuple[str, list[Any], list[Any]]]:
    """Yield (user, x, y) of one file."""
    try:
        loaded = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file} cannot be read as JSON ({error})") from error
    if not isinstance(loaded, dict) or not isinstance(loaded.get("users"), list):
        raise DataError(f"{file} is no LEAF file: it has no list 'users'")
    data, counts = loaded.get("user_data"), loaded.get("num_samples")
    if (
        not isinstance(data, dict)
        or not isinstance(counts, list)
        or len(counts) != len(loaded["users"])
    ):
        raise DataError(
            f"{file} is no LEAF file: 'num_samples' and 'user_data' must cover all of 'users'"
        )
    for user, count in zip(loaded["users"], counts, strict=True):
        own = data.get(user) if isinstance(user, str) else None
        if (
            not isinstance(own, dict)
            or not isinstance(own.get("x"), list)
            or not isinstance(own.get("y"), list)
        ):
            raise DataError(
                f"{file}: user {user!r} has no lists 'x' and 'y' in 'user_data'"
            )
        if not len(own["x"]) == len(own["y"]) == count:
            raise DataError(
                f"{file}: user {user!r} has {len(own['x'])} x and {len(own['y'])} y, but 'num_samples' says {count}"
            )
        yield user, own["x"], own["y"]


def _text(
    folder: Path, inputs: list[Any], targets: list[Any]
) -> tuple[NDArray[np.uint8], NDArray[np.int16]]:
    """Return x (N, T) bytes and y (N, T) with the next character last and `IGNORE` before it, which is LEAF's task."""
    length = len(inputs[0])
    for x, y in zip(inputs, targets, strict=True):
        if (
            not isinstance(x, str)
            or len(x) != length
            or not isinstance(y, str)
            or len(y) != 1
        ):
            raise DataError(
                f"{folder}: every x must be a string of {length} characters and every y one character"
            )
    x = np.frombuffer("".join(inputs).encode("latin-1", "replace"), np.uint8).reshape(
        len(inputs), length
    )
    y = np.full((len(inputs), length), IGNORE, np.int16)
    y[:, -1] = np.frombuffer("".join(targets).encode("latin-1", "replace"), np.uint8)
    return x, y


def _numbers(
    folder: Path, inputs: list[Any], targets: list[Any], shape: tuple[int, ...] | None
) -> tuple[NDArray[np.float32], NDArray[Any]]:
    try:
        x = np.array(inputs, np.float32)
        y = np.array(targets)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{folder}: x must be lists of numbers of one length ({error})"
        ) from error
    if y.dtype.kind not in "iu":
        raise DataError(f"{folder}: y must be whole numbers, not {y.dtype}")
    if shape is None and x.shape[1:] == (784,) and x.min() >= 0 and x.max() <= 1:
        shape = (1, 28, 28)
    if shape is not None:
        if math.prod(shape) != math.prod(x.shape[1:]):
            raise DataError(
                f"[data] shape = {list(shape)} does not fit {folder}: a sample there has {x.shape[1:]} numbers"
            )
        x = x.reshape(len(x), *shape)
    return x, y
