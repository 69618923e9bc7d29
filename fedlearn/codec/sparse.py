"""Codecs made of stages: `Largest` (top-k), `Drawn` (random-k) and `Deflated` (all values, deflated).

Each takes a codec for the values that are sent, the quantiser; it sees these alone, grouped by the tensors that they
come from. Legend: P values of the model, k of them sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedlearn.arrays import Sparse
from fedlearn.codec import Codec, Context, select
from fedlearn.codec.bits import deflate, inflate
from fedlearn.codec.pack import AUTO, Pack
from fedlearn.errors import PayloadError

_FITS = float(np.finfo(np.float32).max)


class Quantiser(Codec, Protocol):
    """A codec whose number of bytes follows from the tensors alone, and whose values come back as an array."""

    def length(self, context: Context) -> int:
        """Return the bytes of values in these tensors."""

    def decode(self, body: bytes, seed: int, context: Context) -> NDArray[np.float32]:
        """Return the values (P,)."""


@dataclass(frozen=True)
class Largest:
    """The largest ``share`` of the values, quantised; see `select.top` and `pack`."""

    share: float
    quantise: Quantiser
    pack: Pack = AUTO

    uses_moved, for_differences = False, True

    def encode(self, values: NDArray[np.float32], seed: int, context: Context) -> bytes:
        """Return the bytes; raises PayloadError for values that the quantiser cannot carry."""
        at = select.top(values, select.kept(self.share, values.size))
        return self.pack.write(
            at, self.quantise.encode(values[at], seed, _sent(at, context)), context
        )

    def decode(self, body: bytes, seed: int, context: Context) -> Sparse:
        """Return the k values and their places."""
        at, rest = self.pack.read(body, select.kept(self.share, context.size), context)
        sent = _sent(at, context)
        return Sparse(
            at,
            self.quantise.decode(rest.body(self.quantise.length(sent)), seed, sent),
            context.size,
        )


@dataclass(frozen=True)
class Drawn:
    """A random ``share`` of the values, known to both ends by the seed and scaled to be unbiased; see `select.drawn`."""

    share: float
    quantise: Quantiser
    deflated: bool = False

    uses_moved, for_differences = False, True

    def encode(self, values: NDArray[np.float32], seed: int, context: Context) -> bytes:
        """Return the bytes; raises PayloadError for values that the quantiser cannot carry."""
        at, lengths = select.drawn(
            values.size, select.kept(self.share, values.size), seed
        )
        scaled = values[at].astype(np.float64) * lengths
        if (largest := float(np.abs(scaled).max(initial=0))) > _FITS:
            raise PayloadError(
                f"the value {largest:g} does not fit randk({self.share:g}), which scales by 1 / share; use raw32"
            )
        return _body(self.quantise, self.deflated).encode(
            scaled.astype(np.float32), seed, _sent(at, context)
        )

    def decode(self, body: bytes, seed: int, context: Context) -> Sparse:
        """Return the k values and their places."""
        at, _ = select.drawn(context.size, select.kept(self.share, context.size), seed)
        return Sparse(
            at,
            _body(self.quantise, self.deflated).decode(body, seed, _sent(at, context)),
            context.size,
        )


@dataclass(frozen=True)
class Deflated:
    """All values, quantised and deflated."""

    quantise: Quantiser

    @property
    def uses_moved(self) -> bool:
        """Return whether the quantiser does."""
        return self.quantise.uses_moved

    @property
    def for_differences(self) -> bool:
        """Return whether the quantiser is."""
        return self.quantise.for_differences

    def encode(self, values: NDArray[np.float32], seed: int, context: Context) -> bytes:
        """Return the quantiser's bytes, deflated; raises PayloadError as it does."""
        return deflate(self.quantise.encode(values, seed, context))

    def decode(self, body: bytes, seed: int, context: Context) -> NDArray[np.float32]:
        """Return the values (P,); raises FormatError."""
        length = self.quantise.length(context)
        return self.quantise.decode(inflate(body, length, length), seed, context)


def _body(quantise: Quantiser, deflated: bool) -> Quantiser | Deflated:
    return Deflated(quantise) if deflated else quantise


def _sent(at: NDArray[np.int64], context: Context) -> Context:
    """Return what both ends know of the values that are sent: how many come from each tensor."""
    ends = np.searchsorted(
        at, np.cumsum([0] + [prod(shape) for shape in context.shapes])
    )
    return Context(tuple((count,) for count in np.diff(ends).tolist() if count))
