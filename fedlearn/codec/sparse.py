"""Codecs of stages: `TopK`, `RandomK` (some values) and `Deflated` (all, deflated).

Each takes a codec for the values that are sent, the quantiser; it sees these alone,
grouped by the tensors that they come from. Legend: P values of the model, k of them sent.
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

_LARGEST = float(np.finfo(np.float32).max)


class Quantiser(Codec, Protocol):
    """A codec whose number of bytes follows from the tensors alone.

    Its values come back as an array.
    """

    def length(self, context: Context) -> int:
        """Return the bytes of values in these tensors."""

    def decode(self, body: bytes, seed: int, context: Context) -> NDArray[np.float32]:
        """Return the values (P,) float32; raises FormatError for other bytes."""


@dataclass(frozen=True)
class TopK:
    """The largest ``share`` of the values, quantised; see `select.top` and `pack`."""

    share: float
    quantise: Quantiser
    pack: Pack = AUTO

    uses_moved = False
    for_differences = True

    def encode(self, values: NDArray[np.float32], seed: int, context: Context) -> bytes:
        """Return the bytes; raises PayloadError for values that the quantiser refuses."""
        k = select.sent_count(self.share, values.size)
        positions = select.top(values, k)
        sent_context = _sent_context(positions, context)
        body = self.quantise.encode(values[positions], seed, sent_context)
        return self.pack.write(positions, body, context)

    def decode(self, body: bytes, seed: int, context: Context) -> Sparse:
        """Return the k values and their positions.

        Raises FormatError for bytes that no encoder made for these tensors.
        """
        k = select.sent_count(self.share, context.size)
        positions, packed = self.pack.read(body, k, context)
        sent_context = _sent_context(positions, context)
        quantised = packed.body(self.quantise.length(sent_context))
        values = self.quantise.decode(quantised, seed, sent_context)
        return Sparse(positions, values, context.size)


@dataclass(frozen=True)
class RandomK:
    """A random ``share`` of the values, scaled to be unbiased.

    Both ends know the positions from the seed; see `select.random_positions`.
    """

    share: float
    quantise: Quantiser
    deflated: bool = False

    uses_moved = False
    for_differences = True

    def encode(self, values: NDArray[np.float32], seed: int, context: Context) -> bytes:
        """Return the bytes; raises PayloadError for values that the quantiser refuses."""
        k = select.sent_count(self.share, values.size)
        positions, lengths = select.random_positions(values.size, k, seed)
        # In float64, because the factor may lead beyond float32.
        scaled = values[positions].astype(np.float64) * lengths
        largest = float(np.abs(scaled).max(initial=0))
        if largest > _LARGEST:
            raise PayloadError(
                f"the value {largest:g} does not fit randk({self.share:g}), "
                "which scales by 1 / share; use raw32"
            )

        sent_context = _sent_context(positions, context)
        return self._value_codec().encode(scaled.astype(np.float32), seed, sent_context)

    def decode(self, body: bytes, seed: int, context: Context) -> Sparse:
        """Return the k values and their positions.

        Raises FormatError for bytes that no encoder made for these tensors.
        """
        k = select.sent_count(self.share, context.size)
        positions, _ = select.random_positions(context.size, k, seed)
        sent_context = _sent_context(positions, context)
        values = self._value_codec().decode(body, seed, sent_context)
        return Sparse(positions, values, context.size)

    def _value_codec(self) -> Quantiser | Deflated:
        if self.deflated:
            return Deflated(self.quantise)
        return self.quantise


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
        """Return the values (P,) float32; raises FormatError for other bytes."""
        # The length is known beforehand, so that a hostile stream cannot fill memory.
        length = self.quantise.length(context)
        return self.quantise.decode(inflate(body, length, length), seed, context)


def _sent_context(positions: NDArray[np.int64], context: Context) -> Context:
    """Return what both ends know of the sent values: how many each tensor has."""
    sizes = map(prod, context.shapes)
    starts = np.cumsum([0, *sizes])
    edges = np.searchsorted(positions, starts)
    counts = np.diff(edges).tolist()
    return Context(tuple((count,) for count in counts if count))
