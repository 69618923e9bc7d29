"""What every codec is, and the words that a codec's text may begin with."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedlearn.arrays import Sparse

AUTO = "auto"
"""In a config: chosen by `fedlearn.codec.choice`."""

ZERO = "zero"
"""The codec of payloads that say that nothing changed; no config asks for it."""

FEEDBACK = "ef+"
"""How the text of a codec with error feedback begins: the client adds the error of its last update to the next."""


@dataclass(frozen=True)
class Context:
    """What both ends know besides the bytes."""

    shapes: tuple[
        tuple[int, ...], ...
    ]  # of the tensors that the values are made of, in order
    moved: NDArray[np.float32] | None = (
        None  # (P,) the model that a difference starts from, minus the run's first model
    )

    @property
    def size(self) -> int:
        """Return P, the number of values."""
        return sum(prod(shape) for shape in self.shapes)


class Codec(Protocol):
    """A pure pair of functions; equal arguments give equal bytes and equal values on every machine."""

    uses_moved: bool
    """Whether the bytes depend on ``context.moved``."""

    for_differences: bool
    """Whether it is too coarse for a whole model, so that ``downlink = "auto"`` sends differences."""

    def encode(self, values: NDArray[np.float32], seed: int, context: Context) -> bytes:
        """Return the bytes of finite values (P,) float32; random numbers come from ``seed`` alone.

        Raises PayloadError for values that the codec cannot carry.
        """

    def decode(
        self, body: bytes, seed: int, context: Context
    ) -> NDArray[np.float32] | Sparse:
        """Return the values, or those that are not 0; raises FormatError unless the bytes are exactly of P values."""
