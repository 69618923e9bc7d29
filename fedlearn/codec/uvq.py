"""`Uvq`: an unbiased estimate of an update at a fraction of a bit per value.

An unbiased vector quantiser: of each group of rotated values only the largest is sent, as
+1 or -1, and the others are 0; blocks of values that matter more have smaller groups.
docs/codecs.md derives it and has what it measures.

Sources: the unbiased scale of a rotated block is that of DRIVE and EDEN (Vargaftik et
al., NeurIPS 2021 and ICML 2022); the codebook that of vqSGD (Gandikota et al., AISTATS
2021). Ours are the order of values by shared movement, the choice of a grade per block by
least error of the unbiased estimate, and the thinning of blocks too weak to be worth
their bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedlearn.codec import Context, graded
from fedlearn.codec.groups import GRADES
from fedlearn.errors import ConfigError

# The cost of not sending a block, per its energy: far more than any grade's, so that only
# thinning leaves blocks out.
_UNSENT_COST = 1000.0


@dataclass(frozen=True)
class Uvq:
    """An estimate at ``rate`` bits a value, everything included.

    Its expectation over seeds is the values themselves.
    """

    rate: float

    name: ClassVar[str] = "uvq"
    uses_moved: ClassVar[bool] = True
    for_differences: ClassVar[bool] = True
    thins: ClassVar[bool] = True
    # The variance of the unbiased estimate.
    costs: ClassVar[NDArray[np.float64]] = np.array(
        [_UNSENT_COST] + [1 / grade.capture - 1 for grade in GRADES[1:]]
    )

    def __post_init__(self) -> None:
        """Raise ConfigError for rates outside 0.01 to 2."""
        if not 0.01 <= self.rate <= 2:
            raise ConfigError(
                f"uvq({self.rate:g}): the rate is in bits per value, from 0.01 to 2"
            )

    def gain(self, capture: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return 1 / capture: the decoded block then projects on the sent one exactly."""
        return 1 / capture

    def encode(self, values: NDArray[np.float32], seed: int, context: Context) -> bytes:
        """Return the body (see `graded`).

        Raises PayloadError for a block with a norm above 1e15.
        """
        return graded.encode(self, values, seed, context)

    def decode(self, body: bytes, seed: int, context: Context) -> NDArray[np.float32]:
        """Return the estimate (P,) float32.

        Raises FormatError for bytes that no encoder made for these shapes.
        """
        return graded.decode(self, body, seed, context)
