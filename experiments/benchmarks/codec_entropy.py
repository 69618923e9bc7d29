"""Order-0 entropy of a chain's symbols: each coded by its frequency alone (Shannon, 1948).

The symbols are read off the decoded values, so that the figure does not depend on how the chain
packs them. A packer that uses more than frequencies (what stood before, where in the model a
value is) can take less.

Legend: P values of the model, of which a sparse chain sends k.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from fedlearn.arrays import Sparse
from fedlearn.codec import Context

BUCKETS = {"q8": (1024, 127), "q4": (256, 7)}
"""Values that share a scale, and the largest level: as in `fedlearn.codec.buckets`."""

WIDTHS = {"raw32": 32, "f16": 16, "bf16": 16}
"""Bits of a value that is sent as a number: its digits count as incompressible."""


def order0(symbols: NDArray[np.generic]) -> float:
    """Return the entropy in bits of all symbols together: their number times that of one."""
    shares = np.unique(symbols, return_counts=True)[1] / max(1, symbols.size)
    return float(-symbols.size * (shares * np.log2(shares)).sum())


def entropy(
    chain: str, decoded: NDArray[np.float32] | Sparse, context: Context
) -> float | None:
    """Return bits per parameter, or None for chains whose symbols do not show in what they
    decode to.

    topk: P · H(k / P) for the positions; randk has none. Then signs (tern, sign), levels (q4c,
    q8, q4) or whole numbers.
    """
    stages = [
        re.sub(r"\(.*", "", stage) for stage in chain.removeprefix("ef+").split("+")
    ]
    if not isinstance(decoded, Sparse):
        return _dense(stages[0], decoded)
    if len(stages) < 2:
        return None
    positions = 0.0
    if stages[0] == "topk":
        chosen = np.zeros(decoded.size, bool)
        chosen[decoded.indices] = True
        positions = order0(chosen)
    values = (
        decoded.values.size * WIDTHS[stages[1]]
        if stages[1] in WIDTHS
        else order0(_symbols(stages[1], decoded.values))
    )
    return (positions + values) / context.size


def _dense(stage: str, decoded: NDArray[np.float32]) -> float | None:
    if stage == "eden1":
        return 1.0  # signs of rotated values are even
    if stage in ("sign", *BUCKETS):
        return order0(_symbols(stage, decoded)) / decoded.size
    return None


def _symbols(stage: str, values: NDArray[np.float32]) -> NDArray[np.generic]:
    """Return one whole number (tern, sign, q8, q4) or float (q4c: one of 16) per value."""
    if stage in BUCKETS:
        bucket, levels = BUCKETS[stage]
        starts = np.arange(0, values.size, bucket)
        largest = np.maximum.reduceat(
            np.abs(values), starts
        )  # always has the largest level
        scales = np.repeat(np.where(largest > 0, largest, 1) / levels, bucket)[
            : values.size
        ]
        return np.rint(values / scales).astype(np.int8)
    return np.sign(values).astype(np.int8) if stage in ("tern", "sign") else values
