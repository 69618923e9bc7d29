"""Which values are sent: the largest (`top`), or random ones (`random_positions`).

Legend: P values, k of them sent.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Values whose magnitudes are held at a time: half a megabyte stays in a core's cache.
_BLOCK = 131_072

# Values that are looked at to guess the threshold, at least.
_SAMPLES = 16_384

# Prime, so that the sample walks through the rows and columns of most matrices.
_STRIDE = 97


def sent_count(share: float, size: int) -> int:
    """Return k, the nearest whole number to ``share`` of ``size`` values.

    At least one value is sent where there are any.
    """
    nearest = round(share * size)
    return min(size, max(1, nearest))


def top(values: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Return the positions (k,) int64 of the k largest magnitudes, increasing.

    Among equal magnitudes the first positions are taken. Values that are 0 are never
    sent: there are fewer positions where fewer than k values are not 0.

    Source: top-k as in Stich et al., NeurIPS 2018 (sparsified SGD with memory), over the
    whole vector as in STC (Sattler et al., TNNLS 2019). The threshold is guessed from a
    sample, one pass collects the candidates, and the exact k are chosen among them; a
    wrong guess costs time, never exactness.
    """
    flat = np.ascontiguousarray(values)
    if not k:
        return np.empty(0, np.int64)

    candidates = _above(flat, _guess(flat, k))
    # The guess was too high; with 0 as the threshold all values are candidates.
    if candidates.size < k:
        candidates = _above(flat, np.float32(0))

    # The k-th largest magnitude, exactly; 0 where all candidates are sent.
    magnitudes = np.abs(flat[candidates])
    threshold = 0.0
    if candidates.size > k:
        place = candidates.size - k
        threshold = float(np.partition(magnitudes, place)[place])

    chosen = magnitudes > threshold
    if threshold > 0:
        # Of equal magnitudes the first: candidates are in increasing order.
        ties = np.flatnonzero(magnitudes == threshold)
        missing = k - int(np.count_nonzero(chosen))
        chosen[ties[:missing]] = True
    return np.asarray(candidates[chosen])


def random_positions(
    size: int, k: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return k random positions, increasing, and how many values each stands for.

    Both are (k,) int64. One position is drawn evenly from each of k stretches of nearly
    equal length; sent times that length, the values are unbiased.

    Source: random-k, Stich et al., NeurIPS 2018. Departure: one in each stretch instead
    of any k, so that both ends draw k numbers and the positions come sorted.
    """
    # In whole numbers: both ends must have the same edges.
    edges = np.arange(k + 1, dtype=np.int64)
    edges *= size
    edges //= max(k, 1)
    lengths = np.diff(edges)
    offsets = _fractions(k, seed) * lengths
    positions = edges[:-1] + offsets.astype(np.int64)
    return positions, lengths


def _fractions(k: int, seed: int) -> NDArray[np.float64]:
    """Return random numbers (k,) in [0, 1)."""
    # Raw draws of PCG64 are the same with every numpy; its distributions may change.
    raw = np.random.PCG64([seed, k]).random_raw(k)
    # The upper 53 bits fit a float64 without rounding.
    return (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _guess(values: NDArray[np.float32], k: int) -> np.float32:
    """Return a magnitude that probably somewhat more than k values reach."""
    # Every 97th value; of short vectors more, so that the sample stays large enough.
    step = max(1, min(_STRIDE, values.size // _SAMPLES))
    sample = np.abs(values[::step])
    expected = k / values.size * sample.size
    # Four standard deviations of the count in a random sample, and 4 for tiny counts.
    reach = int(expected + 4 * expected**0.5) + 4
    if reach >= sample.size:
        return np.float32(0)
    place = sample.size - reach
    return np.float32(np.partition(sample, place)[place])


def _above(values: NDArray[np.float32], threshold: np.float32) -> NDArray[np.int64]:
    """Return the positions of all magnitudes of at least ``threshold``.

    Four times faster than numpy in one line, because few flags are set.
    """
    flags = np.empty(values.size, bool)
    room = np.empty(min(_BLOCK, values.size), np.float32)
    for first in range(0, values.size, _BLOCK):
        block = values[first : first + _BLOCK]
        magnitudes = np.abs(block, out=room[: block.size])
        block_flags = flags[first : first + block.size]
        np.greater_equal(magnitudes, threshold, out=block_flags)

    # Eight flags a byte: most bytes are 0, and only the others are looked at again.
    packed = np.packbits(flags)
    nonzero = np.flatnonzero(packed.view(bool))
    unpacked = np.unpackbits(packed[nonzero])
    bits = np.flatnonzero(unpacked.view(bool))
    byte_starts = nonzero << 3
    return np.asarray(byte_starts[bits >> 3] + (bits & 7))
