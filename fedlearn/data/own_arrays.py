"""Checks of the arrays of a user's own data; each failure is one sentence that says the fix.

``where`` names the array in the messages, for example "my_data: x_train".
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fedlearn.data.casts import (
    Array,
    is_bytes,
    is_whole,
    to_bytes,
    to_float32,
    to_pixels,
)
from fedlearn.data.samples import IGNORE, Modality, Samples
from fedlearn.errors import DataError

# A larger label is an id taken for a class: a model would get as many outputs.
MAX_LABELS = 1_000_000

# How labels of any sort become classes. Each part alone would number them its own way.
NUMBERED = (
    "numpy.unique(labels, return_inverse=True)[1] numbers classes from 0, over the labels "
    "of both parts together"
)

# Whoever predicts prices or ages has whole numbers too.
NO_REGRESSION = "a quantity is no class, and fedlearn learns no regression"

# numpy's kinds: booleans, whole numbers with and without sign, floats.
NUMBERS = "biuf"


def checked_array(name: str, key: str, value: Any) -> Array:
    """Return ``value`` as a filled numpy array of numbers; raises DataError otherwise.

    value: a numpy array, or what numpy makes one of: a tensor, a column or table of pandas, a
    list.
    """
    where = f"{name}: {key}"
    array = as_array(where, value)
    if array.dtype.kind not in NUMBERS:
        fix = f"; {NUMBERED}" if key.startswith("y") else ""
        raise DataError(f"{where} has dtype {array.dtype}; numbers are needed{fix}")
    if array.ndim == 0 or len(array) == 0:
        raise DataError(f"{where} is empty")
    return array


def as_array(where: str, value: Any) -> Array:
    """Return what numpy makes of a value, of any type of elements.

    Raises DataError for what is no array, for lists of several lengths and for a mask.
    """
    if np.ma.is_masked(value):
        raise DataError(
            f"{where} is a masked array, and its mask would be lost; fill the masked "
            "values (.filled) or leave out their samples"
        )
    is_array = hasattr(value, "__array__") or isinstance(value, list | tuple)
    if not is_array:
        raise DataError(
            f"{where} is a {type(value).__name__}, not a numpy array; use numpy.asarray"
        )
    try:
        # The base class: a subclass such as numpy.matrix counts dimensions its own way.
        array = np.asarray(value)
        # A table of pandas with unlike columns, or a list of arrays.
        if array.dtype.kind == "O":
            return np.array(array.tolist())
    # Tensors on a GPU, lists of several lengths, and whatever an object's own code raises.
    except Exception as error:
        raise DataError(
            f"{where} is a {type(value).__name__} that is no array ({error})"
        ) from error
    return array


def modality_of(name: str, x: Array, y: Array, x_test: Array) -> Modality:
    """Return the modality that the shapes of training inputs and targets mean.

    x_test: held-out inputs, of which pictures without channels must be, too. Raises DataError
    for shapes that mean none.
    """
    if x.ndim == 2 and y.shape == x.shape and is_bytes(x):
        return "text"
    if x.ndim == 4 or _are_grey(x, x_test):
        return "image"
    if x.ndim == 3:
        return "series"
    if x.ndim == 2:
        return "features"
    raise DataError(
        f"{name}: x_train has shape {x.shape}; known are (N, C, H, W) and (N, H, W) "
        "images, (N, T, F) series, (N, F) features and (N, T) text"
    )


def _are_grey(x: Array, x_test: Array) -> bool:
    """Return whether three dimensions are grey pictures (N, H, W), and no series (N, T, F)."""
    if x.ndim != 3:
        return False
    if x.dtype in (np.uint8, np.bool_):
        return True
    # Series are scaled to [0, 1] as often as pictures are, but have no equal sides.
    square = x.shape[1] == x.shape[2] > 1
    return square and x.dtype.kind == "f" and _is_unit(x) and _is_unit(x_test)


def _is_unit(x: Array) -> bool:
    """Return whether floats lie between 0 and 1; True for other numbers."""
    return x.dtype.kind != "f" or bool(x.min() >= 0 and x.max() <= 1)


def checked_samples(
    name: str, part: str, modality: Modality, x: Array, y: Array
) -> Samples:
    """Return x and y as the samples of a modality, in the types that `Samples` names.

    part: "train", "test", or "own" for those of one client. Raises DataError naming the array
    and what is wrong.
    """
    where = f"{name}: x_{part}"
    if len(x) != len(y):
        raise DataError(f"{where} has {len(x)} samples, y_{part} has {len(y)} labels")
    if modality == "text":
        lines = to_bytes(where, x)
        return Samples(lines, _targets(f"{name}: y_{part}", lines, y))
    labels = _labels(f"{name}: y_{part}", y)
    # The training samples of all clients; other parts may well be more alike.
    strict = part == "train"
    if modality == "image":
        pictures = _channels_first(where, x)
        return Samples(to_pixels(where, pictures, strict), labels)
    return Samples(to_float32(where, x, strict), labels)


def _targets(where: str, x: Array, y: Array) -> Array:
    """Return the next bytes of text as (N, T) int16; raises DataError for anything else."""
    fits = (
        y.shape == x.shape
        and y.dtype.kind in "iu"
        and ((y >= 0) | (y == IGNORE)).all()
        and (y <= 255).all()
    )
    if not fits:
        raise DataError(
            f"{where} must be next bytes 0 to 255, {IGNORE} where padded, "
            f"of shape {x.shape}"
        )
    # A score over nothing is no number, which would show after the last round.
    if (y == IGNORE).all():
        raise DataError(
            f"{where} is padding ({IGNORE}) throughout: there is nothing to predict"
        )
    # The smallest type that holds 0 to 255 and `IGNORE`.
    return y.astype(np.int16, copy=False)


def _channels_first(where: str, x: Array) -> Array:
    """Return pictures as (N, C, H, W), of whatever type.

    Raises DataError for other shapes, and for channels that stand last.
    """
    # Grey pictures may come without a channel axis.
    if x.ndim == 3:
        x = x[:, None]
    if x.ndim != 4:
        raise DataError(
            f"{where} has shape {x.shape}; images are (N, C, H, W) or (N, H, W)"
        )
    if _channels_last(*x.shape[1:]):
        raise DataError(
            f"{where} has shape {x.shape}, channels last; use x.transpose(0, 3, 1, 2)"
        )
    return x


def _channels_last(first: int, second: int, third: int) -> bool:
    """Return whether the axes behind N look like (H, W, C) and not like (C, H, W)."""
    # Grey and colour pictures have 1 and 3 channels.
    if first in (1, 3):
        return False
    if third in (1, 3):
        return True
    # Height and width are the two axes that are most alike.
    return third < min(first, second) and _ratio(first, second) < _ratio(second, third)


def _ratio(one_side: int, another: int) -> float:
    """Return how many times the longer side has the shorter; at least 1."""
    return max(one_side, another) / max(1, min(one_side, another))


def _labels(where: str, y: Array) -> Array:
    """Return labels as (N,) int64; raises DataError unless they are whole numbers from 0."""
    # A column of a table has an axis of its own.
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        fix = "y.argmax(axis=1)" if _is_one_hot(y) else NO_REGRESSION
        raise DataError(
            f"{where} has shape {y.shape}; labels are (N,) whole numbers: {fix}"
        )
    _check_whole(where, y)
    if int(y.min()) < 0 or int(y.max()) >= MAX_LABELS:
        raise DataError(
            f"{where} has labels from {y.min():.0f} to {y.max():.0f}; they must count "
            f"from 0: {NUMBERED}; {NO_REGRESSION}"
        )
    return y.astype(np.int64, copy=False)


def _is_one_hot(y: Array) -> bool:
    """Return whether the rows of y (N, K) have a 1 for their class, and 0 elsewhere."""
    if y.ndim != 2 or not np.isin(y, (0, 1)).all():
        return False
    return bool((y.sum(axis=1) == 1).all())


def _check_whole(where: str, y: Array) -> None:
    """Raise DataError for labels that are missing, and for targets with fractions."""
    if is_whole(y):
        return
    if not np.isfinite(y).all():
        first_bad = int(np.flatnonzero(~np.isfinite(y))[0])
        raise DataError(
            f"{where}[{first_bad}] is NaN or infinite; leave out samples without a label"
        )
    fraction = y[np.rint(y) != y][0]
    raise DataError(
        f"{where} is {y.dtype} with {fraction:g} among its values; labels are whole "
        f"numbers, the class of each sample: {NO_REGRESSION}"
    )
