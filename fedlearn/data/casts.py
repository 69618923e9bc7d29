"""The one gate of a user's numbers: what comes out of a cast says the same as what went in.

Training takes float32, pictures of 256 shades and bytes of text. A value that these cannot hold
becomes infinity, 0 or its neighbour without a word, so each cast is compared with its source.

``where`` names the array in the messages, for example "my_data: x_train".
Legend: N samples, F values on the last axis.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlearn.errors import DataError

Array = NDArray[Any]

# Types whose values float32 holds exactly.
EXACT = ("bool", "int8", "uint8", "int16", "uint16", "float16", "float32")

# Whole numbers above are not all of float32; half a step of it, as a share of a value.
LARGEST_WHOLE = 2.0**24
HALF_STEP = 2.0**-24

# Largest rounding of a column, as a share of its range: more leaves fewer than 50 steps
# between its smallest value and its largest.
ROUNDING = 1e-2

# Differences below this share of a value are float64's own rounding, and no data.
NOISE = 1e-12

# Smaller values come near to what float32 calls 0.
TINY = 1e-30

# Pictures of floats keep this many of the 256 shades, or they are taken for a wrong scale.
LEAST_SHADES = 16


def to_float32(where: str, x: Array, strict: bool = True) -> NDArray[np.float32]:
    """Return numbers (N, …) as float32; an array that is float32 already is returned itself.

    strict: x is all there is. Of a client, whose values may be alike where those of others
    are not, whole numbers alone are compared. Raises DataError for values that are not finite
    before the cast or after it, and for a column (the last axis) whose distinct values the cast
    makes one.
    """
    _check_finite(where, x, "remove or fill such samples")
    # Too large a number is met below, in our own words.
    with np.errstate(over="ignore", under="ignore"):
        cast: NDArray[np.float32] = x.astype(np.float32, copy=False)
    if x.dtype.name in EXACT:
        return cast
    largest = np.finfo(np.float32).max
    _check_finite(
        where, cast, f"float32 ends at {largest:.1e}; divide such values by a scale"
    )
    columns = x.shape[-1]
    if columns and x.size:
        rows = x.reshape(-1, columns)
        _check_distinct(where, rows, cast.reshape(-1, columns), strict)
    return cast


def to_pixels(where: str, x: Array, strict: bool = True) -> NDArray[np.uint8]:
    """Return the values of pictures as uint8: floats from 0 to 1 become 0 … 255.

    Whole numbers from 0 to 255 and truth values (black and white) are taken too. strict: x is
    all there is, as a client may have dark pictures alone. Raises DataError for other ranges,
    and where it is strict for floats of which few shades would be left.
    """
    if x.dtype == np.uint8:
        return x
    if x.dtype.kind == "b":
        return x.astype(np.uint8) * np.uint8(255)
    _check_finite(where, x, "remove or fill such samples")
    low = float(x.min())
    high = float(x.max())
    if x.dtype.kind in "iu" and low >= 0 and high <= 255:
        return x.astype(np.uint8)
    if x.dtype.kind != "f" or low < 0 or high > 1:
        raise DataError(
            f"{where} is {x.dtype} from {low:g} to {high:g}; "
            "images are uint8, or floats from 0 to 1"
        )
    pixels: NDArray[np.uint8] = np.rint(x * 255).astype(np.uint8)
    if strict:
        _check_shades(where, x, pixels)
    return pixels


def to_bytes(where: str, x: Array) -> NDArray[np.uint8]:
    """Return lines of text (N, T) as uint8; raises DataError for anything else."""
    # Other whole numbers may be numbers of words, which are no bytes.
    if x.ndim != 2 or not is_bytes(x):
        raise DataError(
            f"{where} is {x.dtype} with {x.ndim} dimensions; text is (N, T) uint8 bytes"
        )
    return x.astype(np.uint8, copy=False)


def is_bytes(x: Array) -> bool:
    """Return whether an array holds whole numbers from 0 to 255 alone."""
    if x.dtype == np.uint8:
        return True
    if x.dtype.kind not in "iu" or not x.size:
        return False
    return bool(x.min() >= 0 and x.max() <= 255)


def is_whole(values: Array) -> bool:
    """Return whether all numbers are finite and whole, whatever their type."""
    if values.dtype.kind != "f":
        return True
    return bool(np.isfinite(values).all() and (np.rint(values) == values).all())


def _check_finite(where: str, x: Array, fix: str) -> None:
    """Raise DataError naming the first sample that holds NaN or infinity."""
    # One NaN would turn the whole model into NaN within a step.
    if x.dtype.kind != "f" or np.isfinite(x).all():
        return
    finite = np.isfinite(x.reshape(len(x), -1)).all(axis=1)
    first_bad = int(np.flatnonzero(~finite)[0])
    raise DataError(f"{where}[{first_bad}] holds NaN or infinity; {fix}")


def _check_distinct(
    where: str, x: Array, cast: NDArray[np.float32], strict: bool
) -> None:
    """Raise DataError for a column (N, F) of which float32 makes distinct values one."""
    # Two passes without a copy tell which few columns have to be looked at.
    low = x.min(axis=0)
    high = x.max(axis=0)
    for column in np.flatnonzero(_suspects(low, high)):
        values = x[:, column]
        before = len(np.unique(values))
        after = len(np.unique(cast[:, column]))
        if after < before and not _is_fine(values, strict):
            raise DataError(
                f"{where} has {before:,} distinct values in column {column}, of which "
                f"float32 keeps {after:,}; subtract their smallest and divide by a scale, "
                "or leave the column out"
            )


def _suspects(low: Array, high: Array) -> NDArray[np.bool_]:
    """Return which columns (F,) may lose values, by their smallest and largest."""
    magnitude = np.maximum(np.abs(low.astype(float)), np.abs(high.astype(float)))
    coarse = _is_coarse(low, high)
    tiny = magnitude < TINY
    large = magnitude > LARGEST_WHOLE
    suspects: NDArray[np.bool_] = (low != high) & (coarse | tiny | large)
    return suspects


def _is_coarse(low: Array, high: Array) -> NDArray[np.bool_]:
    """Return where float32 leaves few steps between a column's smallest value and largest."""
    smallest = low.astype(float)
    largest = high.astype(float)
    spread = largest - smallest
    magnitude = np.maximum(np.abs(smallest), np.abs(largest))
    coarse: NDArray[np.bool_] = HALF_STEP * magnitude > ROUNDING * spread
    return coarse


def _is_fine(values: Array, strict: bool) -> bool:
    """Return whether a column (N,) may lose some of its values: fractions among many."""
    low = values.min()
    high = values.max()
    magnitude = max(abs(float(low)), abs(float(high)))
    # Whole numbers are counts and names, of which none may become another. Above 2⁵³ all
    # of float64 is whole.
    if values.dtype.kind != "f" or (magnitude <= 2**53 and is_whole(values)):
        return False
    if not strict or high - low < NOISE * magnitude:
        return True
    return magnitude >= TINY and not _is_coarse(low, high)


def _check_shades(where: str, x: Array, pixels: NDArray[np.uint8]) -> None:
    """Raise DataError for pictures of floats whose shades the 256 of uint8 do not tell apart."""
    levels = int(pixels.max()) - int(pixels.min()) + 1
    if levels >= LEAST_SHADES:
        return
    shades = len(np.unique(pixels))
    # Pictures of a few shades, such as black and white, lose nothing.
    if len(np.unique(x)) > shades:
        raise DataError(
            f"{where} is from {x.min():g} to {x.max():g}, of which 256 levels keep "
            f"{shades}; scale its floats so that they reach from 0 to 1"
        )
