"""Arrays from files, cameras and messages, made fit for a model's input.

Raw samples, as training data has them, are prepared as the package says. Samples in the
input's own dtype are taken as they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedlearn.clients.infer.model import ServedModel
from fedlearn.clients.infer.tensors import Array, fits
from fedlearn.errors import DataError, UserError


@dataclass(frozen=True)
class SampleForm:
    """What one sample of a model is. shape: -1 is an axis of any length."""

    name: str
    shape: tuple[int, ...]
    # Of raw samples where the model says what those are, else of its input.
    dtype: np.dtype[Any]

    def of_numbers(self, values: Array) -> Array:
        """Return a sample of numbers in any layout, (…) float64. Raises DataError."""
        if -1 in self.shape:
            raise DataError("rows of numbers go with samples of one size")
        size = math.prod(self.shape)
        if values.size != size:
            raise DataError(f"{values.size} values, and a sample has {size}")
        # What a dtype cannot hold is compared below, and need not be warned of.
        with np.errstate(invalid="ignore", over="ignore"):
            array = values.astype(self.dtype)
        if self.dtype.kind in "iub" and not np.array_equal(array, values):
            raise DataError(f"a value is no {self.dtype.name}")
        return array.reshape(self.shape)

    def of_picture(self, picture: Array) -> Array:
        """Return a picture (C, H, W) with as many channels as the model's, where it can be."""
        channels = self.shape[0] if len(self.shape) == 3 else 0
        # Alpha, which a picture may have and a model hardly ever.
        if len(picture) in (2, 4) and channels == len(picture) - 1:
            return picture[:channels]
        return picture

    def check(self, shape: tuple[int, ...], name: str) -> None:
        """Raise DataError for a shape that is not the model's."""
        if not fits(self.shape, shape):
            raise DataError(
                f"'{name}' has samples of shape {list(shape)}, and the model takes "
                f"{list(self.shape)}"
            )

    def checked(self, array: Array, name: str) -> Array:
        """Return an array in the model's shape; raises DataError for any other."""
        self.check(array.shape, name)
        return np.ascontiguousarray(array)


def form_of(model: ServedModel) -> SampleForm:
    """Return what a model's samples are; raises UserError for one that makes no batch."""
    if len(model.inputs) != 1:
        raise UserError(
            f"the model has {len(model.inputs)} inputs; a batch goes into a single one"
        )
    port = model.inputs[0]
    if not port.shape or port.shape[0] not in (-1, 1):
        raise UserError("the model's input has no axis along which samples lie")
    dtype = model.raw.dtype if model.raw else port.dtype
    return SampleForm(port.name, port.shape[1:], dtype)
