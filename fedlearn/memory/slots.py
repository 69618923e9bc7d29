"""Where a client's named vectors lie, and how a client is sent the difference from its copy.

Legend: P floats of the model's layout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlearn.arrays import Layout

COPIES = "copies"
RESIDUALS = "residuals"

# A difference has to close a tenth of the gap between copy and model. One that
# closes less costs bytes for nothing, and the whole model is sent instead.
CONTRACTS = 0.9

# The slot of a client that has no vector yet.
NONE = -1


@dataclass(frozen=True)
class Slots:
    """Where one of a client's vectors lies, its digest (8 bytes), and where the next goes."""

    slot: int
    digest: bytes
    into: int

    @property
    def empty(self) -> bool:
        """Return whether the client has no such vector yet."""
        return self.slot == NONE


@dataclass(frozen=True)
class Delivery:
    """How a client is sent a difference from its copy of the model."""

    codec: str
    seed: int
    # The whole model is sent this time, because the copy is in doubt.
    whole: bool = False


ClientSlots = Mapping[str, Slots]
"""The slots of one client's vectors, by the vector's name: `COPIES`, `RESIDUALS`, …"""


def contracts(
    layout: Layout,
    base: NDArray[np.float32],
    arrived: NDArray[np.float32],
    target: NDArray[np.float32],
) -> bool:
    """Return whether a difference closes enough of the gap from ``base`` to ``target``.

    All three are (P,). Buffers always arrive exactly, so only trained values count.
    """
    trained = layout.trained_at
    gap_before = float(np.linalg.norm(base[trained] - target[trained]))
    gap_after = float(np.linalg.norm(arrived[trained] - target[trained]))
    return gap_after <= CONTRACTS * gap_before
