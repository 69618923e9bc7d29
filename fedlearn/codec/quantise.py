"""Codecs of few bits that leave to others which values are sent.

`Signs` (`sign`, `tern`) and `Centroids` (`q4c`).
"""

from __future__ import annotations

from math import prod

import numpy as np
from numpy.typing import NDArray

from fedlearn.codec import Context
from fedlearn.codec.bits import ceil_div
from fedlearn.errors import FormatError

# Magnitudes of `Centroids`: with the sign, 4 bits.
_BINS = 8

# Octaves below the largest magnitude that the bins span; smaller values share the lowest.
_OCTAVES = 8

# Where the exponent and the sign stand in a float32.
_EXPONENT_SHIFT = 23
_SIGN_SHIFT = 31


class Signs:
    """One float32 per tensor, the mean magnitude of its values, and a bit per value.

    Source: EF-signSGD (Karimireddy et al., ICML 2019), with one scale per tensor. After
    top-k it is the ternary code of STC (Sattler et al., TNNLS 2019). Departure from both:
    a scale for each tensor, not one for all. It is biased: use error feedback. A 0 counts
    as positive.
    """

    uses_moved = False
    for_differences = True

    def length(self, context: Context) -> int:
        """Return the bytes of values in these tensors."""
        sizes, _ = _extents(context)
        scale_bytes = 4 * sizes.size
        return scale_bytes + ceil_div(context.size, 8)

    def encode(self, values: NDArray[np.float32], seed: int, context: Context) -> bytes:
        """Return a scale per tensor that has values, and signs."""
        sizes, starts = _extents(context)
        sums = np.empty(0)
        # In float64, so that the mean of a large tensor does not lose small magnitudes.
        if starts.size:
            sums = np.add.reduceat(np.abs(values), starts, dtype=np.float64)
        scales = (sums / sizes).astype("<f4")
        signs = np.packbits(values < 0, bitorder="little")
        return scales.tobytes() + signs.tobytes()

    def decode(self, body: bytes, seed: int, context: Context) -> NDArray[np.float32]:
        """Return the values (P,) float32: plus or minus the scale of their tensor.

        Raises FormatError for bytes that no encoder made for these tensors.
        """
        _check_length(body, self.length(context), "signs")
        sizes, starts = _extents(context)
        scales = _scales(body, sizes.size, "signs")
        packed = np.frombuffer(body, np.uint8, offset=4 * sizes.size)
        signs = np.unpackbits(packed, count=context.size, bitorder="little")
        # As bits: setting the sign of a scale is cheaper than to multiply.
        patterns = signs.astype(np.uint32)
        patterns <<= _SIGN_SHIFT

        tensors = zip(starts.tolist(), sizes.tolist(), strict=True)
        for pattern, (first, size) in zip(scales.view(np.uint32), tensors, strict=True):
            patterns[first : first + size] |= pattern
        return patterns.view(np.float32)


class Centroids:
    """Eight float32 magnitudes, and 4 bits per value: its sign and which magnitude.

    The bins between the smallest and the largest magnitude, or the top eight octaves of
    it, are evenly spaced in the bits of a float32, which is a logarithm made of straight
    pieces: the same on every machine. A centroid is the mean of its bin. Ours, after the
    log-spaced levels of many gradient codecs; biased, at about 1 % of the energy.
    """

    uses_moved = False
    for_differences = True

    def length(self, context: Context) -> int:
        """Return the bytes of P values."""
        centroid_bytes = 4 * _BINS
        return centroid_bytes + ceil_div(context.size, 2)

    def encode(self, values: NDArray[np.float32], seed: int, context: Context) -> bytes:
        """Return the centroids and two values a byte, the first in the low half.

        The high bit of a half is the sign.
        """
        magnitudes = np.abs(values)
        bins = _bins(magnitudes)
        centroids = _centroids(magnitudes, bins)

        # An odd number of values is filled up to whole bytes.
        size = values.size
        halves = np.zeros(size + size % 2, np.uint8)
        halves[:size] = bins + _BINS * (values < 0)
        pairs = halves[::2] | halves[1::2] << 4
        return centroids.tobytes() + pairs.tobytes()

    def decode(self, body: bytes, seed: int, context: Context) -> NDArray[np.float32]:
        """Return the values (P,) float32: plus or minus a centroid.

        Raises FormatError for bytes that no encoder made for P values.
        """
        _check_length(body, self.length(context), "q4c")
        centroids = _scales(body, _BINS, "q4c")

        pairs = np.frombuffer(body, np.uint8, offset=4 * _BINS)
        halves = np.empty((pairs.size, 2), np.uint8)
        halves[:, 0] = pairs & 15
        halves[:, 1] = pairs >> 4
        # The high bit of a half is the sign: the second 8 are the negatives.
        table = np.concatenate([centroids, -centroids])
        codes = halves.ravel()[: context.size]
        return table[codes]


def _bins(magnitudes: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the bin of each magnitude (P,), 0 to 7."""
    patterns = magnitudes.view(np.int32)
    high = int(patterns.max(initial=0))
    lowest = int(patterns.min(initial=high))
    low = max(lowest, high - (_OCTAVES << _EXPONENT_SHIFT))
    # A bin is the number of edges that a magnitude reaches: seven passes over bytes.
    bins = np.zeros(magnitudes.size, np.uint8)
    for edge in range(1, _BINS):
        # Rounded up, in whole numbers: float arithmetic could differ between machines.
        threshold = low - -(high - low + 1) * edge // _BINS
        bins += patterns >= threshold
    return bins


def _centroids(
    magnitudes: NDArray[np.float32], bins: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """Return the mean magnitude of each bin (8,) little-endian; 0 for an empty one."""
    counts = np.bincount(bins, minlength=_BINS)
    weights = magnitudes.astype(np.float64)
    sums = np.bincount(bins, weights=weights, minlength=_BINS)
    means = sums / np.maximum(counts, 1)
    return means.astype("<f4")


def _extents(context: Context) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the sizes and the first places of the tensors that have values."""
    sizes = map(prod, context.shapes)
    nonzero = np.array([size for size in sizes if size], np.int64)
    ends = np.cumsum(nonzero)
    return nonzero, ends - nonzero


def _scales(body: bytes, count: int, name: str) -> NDArray[np.float32]:
    """Return the magnitudes (count,) that a body begins with; raises FormatError."""
    scales = np.frombuffer(body, "<f4", count).astype(np.float32)
    if not (np.isfinite(scales).all() and (scales >= 0).all()):
        raise FormatError(f"a scale of {name} is negative, NaN or infinite")
    return scales


def _check_length(body: bytes, length: int, name: str) -> None:
    """Raise FormatError for another length."""
    if len(body) != length:
        raise FormatError(f"{len(body)} bytes of {name} where the model needs {length}")
