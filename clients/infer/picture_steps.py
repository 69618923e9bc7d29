"""Steps between a picture and a model's input: a short list, by name, without any code.

"resize:32x32,crop:28x28,gray" is three of them, each a function of an array (C, H, W).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

import numpy as np

from fedlearn.clients.infer.fitting import SampleForm
from fedlearn.clients.infer.tensors import Array
from fedlearn.errors import DataError, UserError
from fedlearn.names import nearest

PictureStep = Callable[[Array], Array]

# Of a side: no model on a board takes more.
MOST_PIXELS = 4096

_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")

# The standard's luma of red, green and blue (ITU-R BT.601, 2011).
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def resized(picture: Array, height: int, width: int) -> Array:
    """Return a picture (C, H, W) in another size, (C, height, width), of its dtype.

    Each new pixel is the mean of the area that it covers, as cameras' own scalers do it. It
    takes a few operations per old pixel, by sums up to each edge (Crow, "Summed-area tables
    for texture mapping", SIGGRAPH 1984); its twin in the tests weighs every pixel.
    """
    narrow = _means(picture, width)
    means = _means(narrow.swapaxes(1, 2), height).swapaxes(1, 2)
    if picture.dtype.kind in "iu":
        means = np.rint(means)
    return np.ascontiguousarray(means.astype(picture.dtype))


def _means(picture: Array, size: int) -> Array:
    """Return means (…, size) float64 over equal parts of the last axis."""
    length = picture.shape[-1]
    # Of bytes, the sums are exact.
    dtype = np.uint32 if picture.dtype == np.uint8 else np.float64
    sums = np.zeros((*picture.shape[:-1], length + 1), dtype)
    np.cumsum(picture, axis=-1, dtype=dtype, out=sums[..., 1:])
    edges = np.linspace(0.0, length, size + 1)
    pixel = np.minimum(edges.astype(np.int64), length - 1)
    # An edge inside of a pixel has a part of it on either side.
    part = (edges - pixel) * picture[..., pixel]
    totals = sums[..., pixel].astype(np.float64) + part
    means: Array = np.diff(totals, axis=-1) * (size / length)
    return means


def cropped(picture: Array, height: int, width: int) -> Array:
    """Return the middle of a picture (C, H, W); raises DataError for one that is smaller."""
    _, rows, columns = picture.shape
    if rows < height or columns < width:
        raise DataError(f"crop:{height}x{width}: the picture is {rows}x{columns}")
    top = (rows - height) // 2
    left = (columns - width) // 2
    return picture[:, top : top + height, left : left + width]


def gray(picture: Array) -> Array:
    """Return a picture (3, H, W) in red, green and blue as one (1, H, W) of its dtype."""
    if len(picture) != 3:
        return picture[:1]
    luma = np.tensordot(_LUMA, picture.astype(np.float32), 1)
    if picture.dtype.kind in "iu":
        luma = np.rint(luma)
    return luma[None].astype(picture.dtype)


def normalised(picture: Array, mean: float, deviation: float) -> Array:
    """Return (picture - mean) / deviation, float32; both in the picture's own units."""
    return (picture.astype(np.float32) - np.float32(mean)) / np.float32(deviation)


def parsed(text: str) -> list[PictureStep]:
    """Return the steps of "NAME:VALUE,…"; raises UserError for one that is none."""
    steps: list[PictureStep] = []
    for part in text.split(","):
        name, _, value = part.partition(":")
        if name not in _STEPS:
            raise UserError(
                f"--pre {part}: there is no step '{name}'.{nearest(name, _STEPS)} "
                f"Known: {', '.join(_STEPS)}"
            )
        steps.append(_STEPS[name](part, value))
    return steps


def fitted_to(form: SampleForm) -> list[PictureStep]:
    """Return what makes a camera's frames a model's samples: its colours and its size."""
    if len(form.shape) != 3 or -1 in form.shape:
        return []
    channels, height, width = form.shape
    size = partial(resized, height=height, width=width)
    return [gray, size] if channels == 1 else [size]


def _of_size(step: Callable[..., Array]) -> Callable[[str, str], PictureStep]:
    def parse(part: str, value: str) -> PictureStep:
        match = _SIZE.fullmatch(value)
        height, width = map(int, match.groups()) if match else (0, 0)
        if not (0 < height <= MOST_PIXELS and 0 < width <= MOST_PIXELS):
            raise UserError(
                f"--pre {part}: give HEIGHTxWIDTH, such as 32x32, of {MOST_PIXELS} at most"
            )
        return partial(step, height=height, width=width)

    return parse


def _gray(part: str, value: str) -> PictureStep:
    if value:
        raise UserError(f"--pre {part}: gray has no value")
    return gray


def _normalise(part: str, value: str) -> PictureStep:
    try:
        mean, deviation = (float(number) for number in value.split("/"))
        is_sound = np.isfinite([mean, deviation]).all() and deviation > 0
    except ValueError:
        is_sound = False
    if not is_sound:
        raise UserError(
            f"--pre {part}: give normalise:MEAN/DEVIATION, such as normalise:127.5/127.5"
        )
    return partial(normalised, mean=mean, deviation=deviation)


_STEPS: dict[str, Callable[[str, str], PictureStep]] = {
    "resize": _of_size(resized),
    "crop": _of_size(cropped),
    "gray": _gray,
    "normalise": _normalise,
}
