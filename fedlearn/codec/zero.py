"""`Zero`: the codec of an empty difference, for a client that already has the model."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedlearn.arrays import Sparse
from fedlearn.codec.protocol import Context
from fedlearn.errors import FormatError, PayloadError


class Zero:
    """No bytes: every value is 0."""

    uses_moved = False
    for_differences = True

    def encode(self, values: NDArray[np.float32], seed: int, context: Context) -> bytes:
        """Return no bytes; raises PayloadError for a value that is not 0."""
        if values.any():
            raise PayloadError("the codec 'zero' carries zeros only")
        return b""

    def decode(self, body: bytes, seed: int, context: Context) -> Sparse:
        """Return P zeros; raises FormatError where there are bytes."""
        if body:
            raise FormatError(f"{len(body)} bytes of the codec 'zero', which has none")
        return Sparse(np.empty(0, np.int64), np.empty(0, np.float32), context.size)
