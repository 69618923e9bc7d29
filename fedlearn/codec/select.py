"""Which values are sent: `top` (the largest) and `drawn` (random ones that both ends know)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_BLOCK = 131_072  # values whose magnitudes are held at a time: half a megabyte stays in a core's cache
_SAMPLES = 16_384
_STRIDE = (
    97  # prime, so that the sample walks through the rows and columns of most matrices
)


def kept(share: float, size: int) -> int:
    """Return k, the nearest whole number to ``share`` of ``size`` values, but at least one where there are any."""
    return min(size, max(1, round(share * size)))


def top(values: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Return the places (k,) int64 of the k largest magnitudes, increasing; of equal ones those that come first.

    Values that are 0 are never sent: there are fewer places where fewer than k are not 0.

    Source: top-k as in Stich et al., NeurIPS 2018 (sparsified SGD with memory), over the whole vector as in STC
    (Sattler et al., TNNLS 2019). The threshold is guessed from a sample, one pass collects the candidates, and the
    exact k are chosen among them; a wrong guess costs time, never exactness.
    """
    flat = np.ascontiguousarray(values)
    if not k:
        return np.empty(0, np.int64)
    found = _above(flat, _guess(flat, k))
    if found.size < k:
        found = _above(flat, np.float32(0))
    magnitudes = np.abs(flat[found])
    least = (
        float(np.partition(magnitudes, found.size - k)[found.size - k])
        if found.size > k
        else 0.0
    )
    chosen = magnitudes > least
    if least > 0:
        equal = np.flatnonzero(magnitudes == least)
        chosen[equal[: k - int(np.count_nonzero(chosen))]] = True
    return np.asarray(found[chosen])


def drawn(size: int, k: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return k random places, increasing, and for each the number of values that it stands for; (k,) int64 both.

    One place is drawn evenly from each of k stretches of nearly equal length; sent times that length, the values are
    unbiased. Source: random-k, Stich et al., NeurIPS 2018. Departure: one in each stretch instead of any k, so that
    both ends draw k numbers and the places come sorted. Raw draws of PCG64 alone decide: the same with every numpy.
    """
    edges = np.arange(k + 1, dtype=np.int64) * size // max(k, 1)
    lengths = np.diff(edges)
    shares = (np.random.PCG64([seed, k]).random_raw(k) >> np.uint64(11)).astype(
        np.float64
    ) * 2.0**-53
    return np.asarray(edges[:-1] + (shares * lengths).astype(np.int64)), lengths


def _guess(values: NDArray[np.float32], k: int) -> np.float32:
    """Return a magnitude that probably somewhat more than k values reach."""
    step = max(1, min(_STRIDE, values.size // _SAMPLES))
    sample = np.abs(values[::step])
    expected = k / values.size * sample.size
    reach = (
        int(expected + 4 * expected**0.5) + 4
    )  # four standard deviations of the count in a random sample
    return (
        np.float32(np.partition(sample, sample.size - reach)[sample.size - reach])
        if reach < sample.size
        else np.float32(0)
    )


def _above(values: NDArray[np.float32], least: np.float32) -> NDArray[np.int64]:
    """Return the places of all magnitudes of at least ``least``: four times faster than numpy in one line."""
    flags = np.empty(values.size, bool)
    room = np.empty(min(_BLOCK, values.size), np.float32)
    for first in range(0, values.size, _BLOCK):
        block = values[first : first + _BLOCK]
        np.greater_equal(
            np.abs(block, out=room[: block.size]),
            least,
            out=flags[first : first + block.size],
        )
    eights = np.packbits(flags)
    some = np.flatnonzero(eights.view(bool))
    ones = np.flatnonzero(np.unpackbits(eights[some]).view(bool))
    return np.asarray((some << 3)[ones >> 3] + (ones & 7))
