"""Checks of the arrays of a user's own data; each failure is one sentence that says the fix.

``where`` names the array in the messages, for example "my_data: x_train".
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlearn.data.samples import IGNORE, Modality, Samples
from fedlearn.errors import DataError

Array = NDArray[Any]

# A larger label is an id taken for a class: a model would get as many outputs.
MAX_LABELS = 1_000_000


def checked_array(name: str, key: str, value: Any) -> Array:
    """Return ``value`` if it is a filled numpy array of numbers; raises DataError otherwise."""
    if not isinstance(value, np.ndarray):
        raise DataError(
            f"{name}: {key} is a {type(value).__name__}, not a numpy array; "
            "use numpy.asarray"
        )
    # numpy's kinds: booleans, whole numbers with and without sign, floats.
    if value.dtype.kind not in "biuf":
        raise DataError(f"{name}: {key} has dtype {value.dtype}; numbers are needed")
    if value.ndim == 0 or len(value) == 0:
        raise DataError(f"{name}: {key} is empty")
    return value


def modality_of(name: str, x: Array, y: Array) -> Modality:
    """Return the modality that the shapes of training inputs and targets mean.

    Raises DataError for shapes that mean none.
    """
    if x.ndim == 2 and x.dtype == np.uint8 and y.ndim == 2:
        return "text"
    # Three dimensions of bytes are grey pictures, three of floats are series.
    if x.ndim == 4 or (x.ndim == 3 and x.dtype == np.uint8):
        return "image"
    if x.ndim == 3:
        return "series"
    if x.ndim == 2:
        return "features"
    raise DataError(
        f"{name}: x_train has shape {x.shape}; known are (N, C, H, W) and (N, H, W) "
        "images, (N, T, F) series, (N, F) features and (N, T) text"
    )


def checked_samples(
    name: str, part: str, modality: Modality, x: Array, y: Array
) -> Samples:
    """Return x and y as the samples of a modality, in the types that `Samples` names.

    part: "train", "test" or "own". Raises DataError naming the array and what is wrong.
    """
    where = f"{name}: x_{part}"
    if len(x) != len(y):
        raise DataError(f"{where} has {len(x)} samples, y_{part} has {len(y)} labels")
    # One NaN would turn the whole model into NaN within a step.
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        finite = np.isfinite(x.reshape(len(x), -1)).all(axis=1)
        first_bad = int(np.flatnonzero(~finite)[0])
        raise DataError(
            f"{where}[{first_bad}] holds NaN or infinity; remove or fill such samples"
        )
    if modality == "text":
        return Samples(_bytes(where, x), _targets(f"{name}: y_{part}", x, y))
    labels = _labels(f"{name}: y_{part}", y)
    if modality == "image":
        return Samples(_pixels(where, x), labels)
    return Samples(x.astype(np.float32), labels)


def _bytes(where: str, x: Array) -> Array:
    """Return lines of text (N, T) uint8; raises DataError for anything else."""
    # Other whole numbers may be numbers of words, which are no bytes.
    if x.dtype != np.uint8 or x.ndim != 2:
        raise DataError(
            f"{where} is {x.dtype} with {x.ndim} dimensions; text is (N, T) uint8 bytes"
        )
    return x


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
    # The smallest type that holds 0 to 255 and `IGNORE`.
    return y.astype(np.int16)


def _pixels(where: str, x: Array) -> Array:
    """Return pictures as (N, C, H, W) uint8; floats in [0, 1] become 0 … 255.

    Raises DataError for other shapes, other ranges and channels that stand last.
    """
    # Grey pictures may come without a channel axis.
    if x.ndim == 3:
        x = x[:, None]
    if x.ndim != 4:
        raise DataError(
            f"{where} has shape {x.shape}; images are (N, C, H, W) or (N, H, W)"
        )
    # Grey and colour pictures have 1 and 3 channels.
    if x.shape[-1] in (1, 3) and x.shape[1] not in (1, 3):
        raise DataError(
            f"{where} has shape {x.shape}, channels last; use x.transpose(0, 3, 1, 2)"
        )
    if x.dtype == np.uint8:
        return x
    if x.dtype.kind == "f" and x.min() >= 0 and x.max() <= 1:
        pixels: Array = np.rint(x * 255).astype(np.uint8)
        return pixels
    raise DataError(
        f"{where} is {x.dtype} from {x.min():g} to {x.max():g}; "
        "images are uint8, or floats from 0 to 1"
    )


def _labels(where: str, y: Array) -> Array:
    """Return labels as (N,) int64; raises DataError unless they are whole numbers from 0."""
    # One-hot rows have two axes.
    if y.ndim != 1:
        raise DataError(f"{where} has shape {y.shape}; labels are (N,) whole numbers")
    # Labels as floats may be targets of a regression, which is another experiment.
    if y.dtype.kind not in "iu":
        raise DataError(
            f"{where} is {y.dtype}; labels are whole numbers: use y.astype('int64')"
        )
    if int(y.min()) < 0 or int(y.max()) >= MAX_LABELS:
        raise DataError(
            f"{where} has labels from {y.min()} to {y.max()}; they must count from 0"
        )
    return y.astype(np.int64)


def owner_numbers(name: str, client_ids: Any, samples: int) -> NDArray[np.int64]:
    """Return one whole number per sample, (N,); names are numbered in sorted order.

    Raises DataError unless ``client_ids`` has one number or name for each sample.
    """
    values = np.asarray(client_ids)
    if values.shape != (samples,) or values.dtype.kind not in "iuUS":
        raise DataError(
            f"{name}: client_ids is {values.dtype} {values.shape}; it must be one number "
            f"or name for each of the {samples} training samples"
        )
    if values.dtype.kind in "iu":
        return values.astype(np.int64)
    # Sorted order, so that the numbers do not depend on the order of the samples.
    _, numbers = np.unique(values, return_inverse=True)
    return numbers.reshape(-1)
