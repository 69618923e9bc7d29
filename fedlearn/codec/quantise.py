"""Codecs of few bits that say nothing of which values are sent: `Signs` (`sign`, `tern`) and `Centroids` (`q4c`)."""

from __future__ import annotations

from math import prod

import numpy as np
from numpy.typing import NDArray

from fedlearn.codec import Context
from fedlearn.errors import FormatError

_BINS = 8
_OCTAVES = 8


class Signs:
    """One float32 per tensor, the mean magnitude of its values, and a bit per value: its sign.

    Source: EF-signSGD (Karimireddy et al., ICML 2019), with one scale per tensor. After top-k it is the ternary code of
    STC (Sattler et al., TNNLS 2019). Departure from both: a scale for each tensor, not one for all. It is biased: use
    error feedback. A 0 counts as positive.
    """

    uses_moved, for_differences = False, True

    def length(self, context: Context) -> int:
        """Return the bytes of values in these tensors."""
        return 4 * sum(1 for shape in context.shapes if prod(shape)) + -(
            -context.size // 8
        )

    def encode(self, values: NDArray[np.float32], seed: int, context: Context) -> bytes:
        """Return a scale per tensor that has values, and signs."""
        sizes, starts = _extents(context)
        sums = (
            np.add.reduceat(np.abs(values), starts, dtype=np.float64)
            if starts.size
            else np.empty(0)
        )
        return (sums / sizes).astype("<f4").tobytes() + np.packbits(
            values < 0, bitorder="little"
        ).tobytes()

    def decode(self, body: bytes, seed: int, context: Context) -> NDArray[np.float32]:
        """Return the values (P,) float32: plus or minus the scale of their tensor."""
        _check_length(body, self.length(context), "signs")
        sizes, starts = _extents(context)
        scales = _scales(body, sizes.size, "signs")
        bits = np.unpackbits(
            np.frombuffer(body, np.uint8, offset=4 * sizes.size),
            count=context.size,
            bitorder="little",
        )
        patterns = bits.astype(np.uint32)
        patterns <<= 31  # the sign bit of a float32
        for pattern, first, size in zip(
            scales.view(np.uint32), starts.tolist(), sizes.tolist(), strict=True
        ):
            patterns[first : first + size] |= pattern
        return patterns.view(np.float32)


class Centroids:
    """Eight float32 magnitudes, and 4 bits per value: its sign and which magnitude.

    The bins between the smallest and the largest magnitude, or the top eight octaves of it, are evenly spaced in the
    bits of a float32, which is a logarithm made of straight pieces: the same on every machine. A centroid is the mean
    of its bin. Ours, after the log-spaced levels of many gradient codecs; biased, at about 1 % of the energy.
    """

    uses_moved, for_differences = False, True

    def length(self, context: Context) -> int:
        """Return the bytes of P values."""
        return 4 * _BINS + -(-context.size // 2)

    def encode(self, values: NDArray[np.float32], seed: int, context: Context) -> bytes:
        """Return the centroids and two values a byte, the first in the low half; the high bit of a half is the sign."""
        magnitudes = np.abs(values)
        patterns = magnitudes.view(np.int32)
        high = int(patterns.max(initial=0))
        low = max(int(patterns.min(initial=high)), high - (_OCTAVES << 23))
        bins = np.zeros(values.size, np.uint8)
        for j in range(1, _BINS):
            bins += (
                patterns >= low - -(high - low + 1) * j // _BINS
            )  # the upper edge of bin j - 1, rounded up
        counts = np.bincount(bins, minlength=_BINS)
        sums = np.bincount(bins, weights=magnitudes.astype(np.float64), minlength=_BINS)
        halves = np.zeros(values.size + values.size % 2, np.uint8)
        halves[: values.size] = bins + _BINS * (values < 0)
        return (sums / np.maximum(counts, 1)).astype("<f4").tobytes() + (
            halves[::2] | halves[1::2] << 4
        ).tobytes()

    def decode(self, body: bytes, seed: int, context: Context) -> NDArray[np.float32]:
        """Return the values (P,) float32: plus or minus a centroid."""
        _check_length(body, self.length(context), "q4c")
        centroids = _scales(body, _BINS, "q4c")
        data = np.frombuffer(body, np.uint8, offset=4 * _BINS)
        halves = np.empty((data.size, 2), np.uint8)
        halves[:, 0], halves[:, 1] = data & 15, data >> 4
        return np.concatenate([centroids, -centroids])[halves.ravel()[: context.size]]


def _extents(context: Context) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the sizes and the first places of the tensors that have values."""
    sizes = np.array(
        [size for shape in context.shapes if (size := prod(shape))], np.int64
    )
    return sizes, np.cumsum(sizes) - sizes


def _scales(body: bytes, count: int, name: str) -> NDArray[np.float32]:
    scales = np.frombuffer(body, "<f4", count).astype(np.float32)
    if not (np.isfinite(scales).all() and (scales >= 0).all()):
        raise FormatError(f"a scale of {name} is negative, NaN or infinite")
    return scales


def _check_length(body: bytes, wanted: int, name: str) -> None:
    if len(body) != wanted:
        raise FormatError(f"{len(body)} bytes of {name} where the model needs {wanted}")
