"""`Predicted`: what a model's movement so far says of its next step is subtracted before, and added after, a codec's work.

A model that moved from w0 to w mostly goes on in that direction: the difference x that a client is sent later has, row by
row of a matrix, a part β·m along m = w − w0, which both ends know. Only β travels, a byte a row; the codec has to carry
x − β·m, with a smaller norm. Of the squared norm of recorded differences it takes away 64 % early, 30 % in the middle and
23 % late on the 2NN, 45, 21 and 7 % on the LSTM (experiments/benchmarks/codec.py). The copy of a client that lags behind
also lags along m.

Linear prediction before quantisation is the principle of differential coding (Cutler, US patent 2,605,361, 1952); using
the movement since the shared first model as the predictor is ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from fedlearn.arrays import Sparse
from fedlearn.codec.protocol import Codec, Context
from fedlearn.errors import FormatError

SHORTEST = 128
"""Values of a row that get a factor of their own; tensors with shorter rows, and vectors, have one factor."""

STEP = 1 / 64
"""Of the factors: they travel as whole steps in one byte, from -127 to 127."""


@dataclass(frozen=True)
class Predicted:
    """A codec for what movement does not predict; where no movement is known, the codec alone."""

    codec: Codec

    uses_moved, for_differences = True, True

    def encode(self, values: NDArray[np.float32], seed: int, context: Context) -> bytes:
        """Return one byte per factor, then the codec's; raises PayloadError as it does."""
        if context.moved is None or not context.moved.any():
            return self.codec.encode(values, seed, context)
        moved = context.moved
        steps = [np.empty(0, np.int8)]
        for x, m in zip(_rows(values, context), _rows(moved, context), strict=True):
            along = np.einsum("ij,ij->i", x, m)
            energy = np.einsum("ij,ij->i", m, m)
            best = np.divide(
                along, energy, out=np.zeros_like(along), where=energy > 1e-30
            )  # so small: as if it had not moved
            steps.append(np.rint(best / STEP).clip(-127, 127).astype(np.int8))
        factors = np.concatenate(steps)
        return factors.tobytes() + self.codec.encode(
            values - _prediction(factors, moved, context), seed, context
        )

    def decode(self, body: bytes, seed: int, context: Context) -> NDArray[np.float32]:
        """Return the prediction plus what the codec says (P,); raises FormatError."""
        if context.moved is None or not context.moved.any():
            return _dense(self.codec.decode(body, seed, context))
        count = sum(shape[0] if _is_long(shape) else 1 for shape in context.shapes)
        if len(body) < count:
            raise FormatError(
                f"{len(body)} bytes where {count} factors of a prediction are expected"
            )
        told = self.codec.decode(body[count:], seed, context)
        values = _prediction(
            np.frombuffer(body[:count], np.int8), context.moved, context
        )
        if isinstance(told, Sparse):
            values[told.indices] += told.values
        else:
            values += told
        return values


def _is_long(shape: tuple[int, ...]) -> bool:
    return len(shape) > 1 and prod(shape[1:]) >= SHORTEST


def _rows(
    values: NDArray[np.float32], context: Context
) -> Iterator[NDArray[np.float32]]:
    """Yield each tensor's rows that have a factor each, (r, n)."""
    at = 0
    for shape in context.shapes:
        part = values[at : at + prod(shape)]
        at += part.size
        rows = shape[0] if _is_long(shape) else 1
        yield part.reshape(rows, part.size // max(1, rows))


def _prediction(
    factors: NDArray[np.int8], moved: NDArray[np.float32], context: Context
) -> NDArray[np.float32]:
    """Return factor times movement (P,): one rounding a value, the same on every machine."""
    out = np.empty_like(moved)
    at = 0
    for into, m in zip(_rows(out, context), _rows(moved, context), strict=True):
        np.multiply(m, (factors[at : at + len(m), None] * np.float32(STEP)), out=into)
        at += len(m)
    return out


def _dense(values: NDArray[np.float32] | Sparse) -> NDArray[np.float32]:
    return values.dense() if isinstance(values, Sparse) else values
