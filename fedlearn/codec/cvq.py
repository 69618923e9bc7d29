"""`Cvq`: a difference of models at a fraction of a bit per value, for a copy that lags.

A contractive vector quantiser: what a copy lacks shrinks at every contact. It has the
body of `uvq` with another objective, grades that leave the least error (reverse
water-filling: Shannon 1959; Cover & Thomas, Elements of Information Theory, section
10.3), and scales between that of least squares and the unbiased one.

What a block still lacks after a contact is 1 - c g (2 - g) of its energy, for a capture c
and g times the least-squares scale: it shrinks for every c as long as g < 2.
docs/codecs.md derives it and has what it measures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedlearn.codec import Context, graded
from fedlearn.codec.groups import GRADES
from fedlearn.errors import ConfigError

# The largest factor on the least-squares scale: a block then keeps at least 0.84 of the
# progress of least squares.
MOST = 1.4


@dataclass(frozen=True)
class Cvq:
    """An approximation at ``rate`` bits a value, everything included.

    eta: 0 for least squares, 1 for the exact projection, up to the factor `MOST`.
    """

    rate: float
    eta: float = 0.0

    name: ClassVar[str] = "cvq"
    uses_moved: ClassVar[bool] = True
    for_differences: ClassVar[bool] = True
    thins: ClassVar[bool] = False
    # The error of least squares: what the symbols do not catch.
    costs: ClassVar[NDArray[np.float64]] = np.array(
        [1 - grade.capture for grade in GRADES]
    )

    def __post_init__(self) -> None:
        """Raise ConfigError for rates outside 0.02 to 4, and for eta outside 0 to 1."""
        if not 0.02 <= self.rate <= 4:
            raise ConfigError(
                f"cvq({self.rate:g}, …): the rate is in bits per value, from 0.02 to 4"
            )
        if not 0 <= self.eta <= 1:
            raise ConfigError(
                f"cvq(…, {self.eta:g}): "
                "eta is from 0 (least squares) to 1 (exact projection)"
            )

    def gain(self, capture: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return 1 + eta (1 / capture - 1), at most 1.4."""
        # What the unbiased scale adds to that of least squares.
        excess = 1 / capture - 1
        return np.minimum(1 + self.eta * excess, MOST)

    def encode(self, values: NDArray[np.float32], seed: int, context: Context) -> bytes:
        """Return the body (see `graded`).

        Raises PayloadError for a block with a norm above 1e15.
        """
        return graded.encode(self, values, seed, context)

    def decode(self, body: bytes, seed: int, context: Context) -> NDArray[np.float32]:
        """Return the approximation (P,) float32.

        Raises FormatError for bytes that no encoder made for these shapes.
        """
        return graded.decode(self, body, seed, context)
