"""LEAF's JSON: folders train/ and test/ of files with users, num_samples and user_data.

Every user is one natural client. Features are flat lists of numbers; the Shakespeare set has
strings of characters and the one that comes next.

Source: Caldas et al., "LEAF: A Benchmark for Federated Settings" (2018).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedlearn.data.own import dataset
from fedlearn.data.samples import IGNORE, Dataset
from fedlearn.errors import DataError

# A flat list of this many numbers from 0 to 1 is a picture of FEMNIST, (1, 28, 28).
FEMNIST_LENGTH = 784


class LeafPart(NamedTuple):
    """The samples of train/ or test/: x (N, …), y (N, …) and the user of each sample, N names."""

    x: NDArray[Any]
    y: NDArray[Any]
    users: list[str]


class LeafUser(NamedTuple):
    """One user of a file, and the lists of its inputs and targets, equally long."""

    name: str
    inputs: list[Any]
    targets: list[Any]


def read_leaf(folder: Path, shape: tuple[int, ...] | None) -> Dataset:
    """Return the set in a LEAF folder; ``shape`` (C, H, W) says that a flat list is a picture.

    784 numbers from 0 to 1 are taken for a 28×28 picture (FEMNIST). Raises DataError naming the
    file and its defect.
    """
    train = _read_part(folder / "train", shape)
    test = _read_part(folder / "test", shape)
    name = f"dir {folder}"
    owners = np.array(train.users)
    return dataset(name, train.x, train.y, test.x, test.y, owners)


def _read_part(folder: Path, shape: tuple[int, ...] | None) -> LeafPart:
    """Return the samples of all files of train/ or test/; raises DataError."""
    # Sorted, because the order of a folder differs between machines.
    files = sorted(folder.glob("*.json"))
    if not files:
        raise DataError(
            f"{folder} holds no .json file; a LEAF set has train/*.json and test/*.json"
        )
    inputs: list[Any] = []
    targets: list[Any] = []
    users: list[str] = []
    for file in files:
        for user in _users(file):
            inputs += user.inputs
            targets += user.targets
            users += [user.name] * len(user.targets)
    if not inputs:
        raise DataError(f"{folder} holds no samples")
    x: NDArray[Any]
    y: NDArray[Any]
    # The first sample decides; the readers refuse a set that mixes both.
    if isinstance(inputs[0], str):
        x, y = _text(folder, inputs, targets)
    else:
        x, y = _numbers(folder, inputs, targets, shape)
    return LeafPart(x, y, users)


def _users(file: Path) -> Iterator[LeafUser]:
    """Yield the users of one file; raises DataError where it is no LEAF file."""
    try:
        loaded = json.loads(file.read_bytes())
    # RecursionError: lists within lists, more than Python's stack.
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file} cannot be read as JSON ({error})") from error
    if not isinstance(loaded, dict) or not isinstance(loaded.get("users"), list):
        raise DataError(f"{file} is no LEAF file: it has no list 'users'")
    names = loaded["users"]
    data: Any = loaded.get("user_data")
    counts: Any = loaded.get("num_samples")
    complete = (
        isinstance(data, dict)
        and isinstance(counts, list)
        and len(counts) == len(names)
    )
    if not complete:
        raise DataError(
            f"{file} is no LEAF file: 'num_samples' and 'user_data' must cover "
            "all of 'users'"
        )
    for name, count in zip(names, counts, strict=True):
        yield _user(file, name, count, data)


def _user(file: Path, name: Any, count: Any, data: Mapping[str, Any]) -> LeafUser:
    """Return one user's lists; raises DataError unless they are there and ``count`` long."""
    # A name may be any JSON value, and a list or a table would be no key.
    samples = data.get(name) if isinstance(name, str) else None
    if not isinstance(samples, dict):
        samples = {}
    inputs = samples.get("x")
    targets = samples.get("y")
    if not isinstance(inputs, list) or not isinstance(targets, list):
        raise DataError(
            f"{file}: user {name!r} has no lists 'x' and 'y' in 'user_data'"
        )
    # The count is written beside the lists; a difference means a file cut or edited.
    if not len(inputs) == len(targets) == count:
        raise DataError(
            f"{file}: user {name!r} has {len(inputs)} x and {len(targets)} y, "
            f"but 'num_samples' says {count}"
        )
    return LeafUser(name, inputs, targets)


def _text(
    folder: Path, inputs: list[Any], targets: list[Any]
) -> tuple[NDArray[np.uint8], NDArray[np.int16]]:
    """Return strings as x (N, T) bytes, and y (N, T) with the next character in the last place.

    The other places of y are `IGNORE`: LEAF's task is the last character alone. Raises DataError
    unless all strings are of one length.
    """
    # The first line sets the length: an array has one for all.
    length = len(inputs[0])
    for text, target in zip(inputs, targets, strict=True):
        if not (_is_text(text, length) and _is_text(target, 1)):
            raise DataError(
                f"{folder}: every x must be a string of {length} characters "
                "and every y one character"
            )
    # One byte a character, so that lengths stay; what Latin-1 lacks becomes "?".
    x_bytes = "".join(inputs).encode("latin-1", "replace")
    y_bytes = "".join(targets).encode("latin-1", "replace")
    shape = (len(inputs), length)
    x = np.frombuffer(x_bytes, np.uint8).reshape(shape)
    y = np.full(shape, IGNORE, np.int16)
    y[:, -1] = np.frombuffer(y_bytes, np.uint8)
    return x, y


def _is_text(value: object, length: int) -> bool:
    """Tell whether a value is a string of so many characters."""
    if not isinstance(value, str):
        return False
    return len(value) == length


def _numbers(
    folder: Path, inputs: list[Any], targets: list[Any], shape: tuple[int, ...] | None
) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Return lists of numbers as x (N, F), or (N, *shape) for pictures, and labels y (N,).

    Raises DataError for lists of several lengths, labels that are not whole, another shape.
    """
    try:
        x = np.array(inputs, np.float32)
        # Without a type, so that labels with a fraction are seen and not cut off.
        y = np.array(targets)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{folder}: x must be lists of numbers of one length ({error})"
        ) from error
    if y.dtype.kind not in "iu":
        raise DataError(f"{folder}: y must be whole numbers, not {y.dtype}")
    if shape is None:
        # Numbers outside [0, 1] are features, however many there are.
        is_picture = x.shape[1:] == (FEMNIST_LENGTH,) and x.min() >= 0 and x.max() <= 1
        if not is_picture:
            return x, y
        shape = (1, 28, 28)
    if math.prod(shape) != math.prod(x.shape[1:]):
        raise DataError(
            f"[data] shape = {list(shape)} does not fit {folder}: "
            f"a sample there has {x.shape[1:]} numbers"
        )
    return x.reshape(len(x), *shape), y
