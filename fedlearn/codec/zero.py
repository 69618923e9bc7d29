"""`Zero`: nothing to say. What a client is sent that already holds the model."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedlearn.arrays import Sparse
from fedlearn.codec import Context
from fedlearn.errors import FormatError, PayloadError


class Zero:
    """No bytes: every value is 0."""

    uses_moved, for_differences = False, True

    def encode(self, values: NDArray[np.float32], seed: int, context: Context) -> bytes:
        """Return no bytes; raises PayloadError for a value that is not 0."""
        if values.any():
            raise PayloadError("the codec 'zero' carries zeros only")
        return b""

    def decode(self, body: bytes, seed: int, context: Context) -> Sparse:
        """Return that all P values are 0; raises FormatError when there are bytes."""
        if body:
            raise FormatError(f"{len(body)} bytes of the codec 'zero', which has none")
        return Sparse(np.empty(0, np.int64), np.empty(0, np.float32), context.size)
