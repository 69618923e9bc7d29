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

from fedlearn.data.casts import is_whole, to_float32
from fedlearn.data.leaf_text import alphabet
from fedlearn.data.own import dataset
from fedlearn.data.samples import IGNORE, Dataset
from fedlearn.errors import DataError

# A flat list of this many numbers from 0 to 1 is a picture of FEMNIST, (1, 28, 28).
FEMNIST_LENGTH = 784


class LeafPart(NamedTuple):
    """The samples of train/ or test/ as JSON has them: N inputs, targets and names of users."""

    inputs: list[Any]
    targets: list[Any]
    users: list[str]


class LeafUser(NamedTuple):
    """One user of a file, and the lists of its inputs and targets, equally long."""

    name: str
    inputs: list[Any]
    targets: list[Any]


def read_leaf(
    folder: Path, shape: tuple[int, ...] | None, classes: int | None = None
) -> Dataset:
    """Return the set in a LEAF folder; ``shape`` (C, H, W) says that a flat list is a picture.

    784 numbers from 0 to 1 are taken for a 28×28 picture (FEMNIST). classes: as in
    `fedlearn.data.own.dataset`. Raises DataError naming the file and its defect.
    """
    train = _read_part(folder / "train")
    test = _read_part(folder / "test")
    name = f"dir {folder}"
    notes: list[str] = []
    # The first sample decides; the readers refuse a set that mixes both.
    if isinstance(train.inputs[0], str):
        bytes_of, notes = alphabet(folder, [train, test])
        x_train, y_train = _text(folder / "train", train, bytes_of)
        x_test, y_test = _text(folder / "test", test, bytes_of)
    else:
        x_train, y_train = _numbers(folder / "train", train, shape)
        x_test, y_test = _numbers(folder / "test", test, shape)
    owners = np.array(train.users)
    return dataset(
        name, x_train, y_train, x_test, y_test, owners, classes=classes, notes=notes
    )


def _read_part(folder: Path) -> LeafPart:
    """Return the samples of all files of train/ or test/; raises DataError."""
    # Sorted, because the order of a folder differs between machines.
    files = sorted(folder.glob("*.json"))
    if not files:
        raise DataError(
            f"{folder} holds no .json file; a LEAF set has train/*.json and test/*.json"
        )
    part = LeafPart([], [], [])
    for file in files:
        for user in _users(file):
            part.inputs.extend(user.inputs)
            part.targets.extend(user.targets)
            part.users.extend([user.name] * len(user.targets))
    if not part.inputs:
        raise DataError(f"{folder} holds no samples")
    return part


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
    # Numbers too name users; the keys of JSON are texts all the same.
    if isinstance(name, int | float):
        name = str(name)
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
    folder: Path, part: LeafPart, bytes_of: Mapping[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.int16]]:
    """Return strings as x (N, T) bytes, and y (N, T) with the next character in the last place.

    bytes_of: the byte of each character that has another than its own number. The other places
    of y are `IGNORE`: LEAF's task is the last character alone. Raises DataError unless all
    strings are of one length.
    """
    # The first line sets the length: an array has one for all.
    length = len(part.inputs[0])
    for text, target in zip(part.inputs, part.targets, strict=True):
        if not _is_text(target, 1):
            raise DataError(
                f"{folder}: x is {str(text)[:40]!r} and y is {str(target)[:40]!r}; text "
                "needs the next character as y, and files that x may name are not read"
            )
        if not _is_text(text, length):
            raise DataError(
                f"{folder}: every x must be a string of {length} characters"
            )
    # One byte a character, so that lengths stay.
    x_bytes = "".join(part.inputs).translate(bytes_of).encode("latin-1")
    y_bytes = "".join(part.targets).translate(bytes_of).encode("latin-1")
    shape = (len(part.inputs), length)
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
    folder: Path, part: LeafPart, shape: tuple[int, ...] | None
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return lists of numbers as x (N, F), or (N, *shape) for pictures, and targets y (N,).

    Raises DataError for lists of several lengths, texts, and another shape.
    """
    numbers = _array(folder, "x", part.inputs)
    if numbers.ndim < 2:
        raise DataError(f"{folder}: x must be lists of numbers of one length")
    # Here, so that pictures are rounded from float32, as ever.
    strict = folder.name == "train"
    x = to_float32(f"{folder}: x", numbers, strict)
    y = _array(folder, "y", part.targets)
    if not is_whole(y):
        raise DataError(
            f"{folder}: y must be whole numbers, the class of each sample, not fractions"
        )
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


def _array(folder: Path, key: str, values: list[Any]) -> NDArray[Any]:
    """Return lists of JSON as an array of numbers; raises DataError for anything else."""
    try:
        array = np.array(values)
    except ValueError as error:
        raise DataError(
            f"{folder}: {key} must be lists of numbers of one length ({error})"
        ) from error
    if array.dtype.kind not in "biuf":
        example = (
            values[0][0] if isinstance(values[0], list) and values[0] else values[0]
        )
        raise DataError(
            f"{folder}: {key} must be lists of numbers of one length; it has "
            f"{str(example)[:40]!r}, and words or sentences are not learned from"
        )
    return array
