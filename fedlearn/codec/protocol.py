"""What every codec is, and the words that a codec's text may begin with."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedlearn.arrays import Sparse

# In a config: the codec is chosen by `fedlearn.codec.choice`.
AUTO = "auto"

# The codec of payloads that say that nothing changed; no config asks for it.
ZERO = "zero"

# How the text of a codec with error feedback begins: the client adds the error of its
# last update to the next one.
FEEDBACK = "ef+"


@dataclass(frozen=True)
class Context:
    """What both ends know besides the bytes."""

    # Of the tensors that the values are made of, in order.
    shapes: tuple[tuple[int, ...], ...]
    # (P,) the model that a difference starts from, minus the run's first model.
    moved: NDArray[np.float32] | None = None

    @property
    def size(self) -> int:
        """Return P, the number of values."""
        sizes = map(prod, self.shapes)
        return sum(sizes)


class Codec(Protocol):
    """A pure pair of functions.

    Equal arguments give equal bytes and equal values on every machine.
    """

    # Whether the bytes depend on ``context.moved``.
    uses_moved: bool
    # Whether the codec is too coarse for a whole model, so that ``downlink = "auto"``
    # sends differences.
    for_differences: bool

    def encode(self, values: NDArray[np.float32], seed: int, context: Context) -> bytes:
        """Return the bytes of finite values (P,) float32.

        Random numbers come from ``seed`` alone. Raises PayloadError for values that the
        codec cannot carry.
        """

    def decode(
        self, body: bytes, seed: int, context: Context
    ) -> NDArray[np.float32] | Sparse:
        """Return the values (P,) float32, or those that are not 0.

        Raises FormatError unless the bytes are exactly those of P values.
        """
