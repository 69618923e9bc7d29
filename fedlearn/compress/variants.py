"""Which variants a command asks for: each step alone, and one of each kind together."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from fedlearn.errors import ConfigError

# How the weights are stored. Two of them at once would contradict each other.
Store = Literal["float32", "int8", "binary"]


@dataclass(frozen=True)
class Steps:
    """What is done to the original, in this order: pruned, cut to low rank, stored.

    prune, low_rank: shares that go, 0 to 1; 0: not done.
    """

    prune: float = 0.0
    low_rank: float = 0.0
    store: Store = "float32"

    @property
    def name(self) -> str:
        """Return the variant's name, its folder's too: "prune-0.5+int8".

        Shares stand there with every digit that tells them from others.
        """
        parts = []
        if self.prune:
            parts.append(f"prune-{self.prune!r}")
        if self.low_rank:
            parts.append(f"low-rank-{self.low_rank!r}")
        if self.store != "float32":
            parts.append(self.store)
        return "+".join(parts) or "original"

    @property
    def trained(self) -> Steps:
        """Return the variant whose weights this one stores: int8 comes after training."""
        if self.store == "int8":
            return replace(self, store="float32")
        return self

    @property
    def is_trained(self) -> bool:
        """Tell whether the weights are others than the original's."""
        return self.trained != ORIGINAL


ORIGINAL = Steps()


def variants(
    prune: Sequence[float], low_rank: Sequence[float], int8: bool, binary: bool
) -> list[Steps]:
    """Return every combination of the steps, without the original, the fewest steps first.

    Raises ConfigError for a share outside 0 to 1, a share that is given twice, and for no
    step at all.
    """
    check_shares("--prune", prune)
    check_shares("--low-rank", low_rank)
    stores: list[Store] = ["float32"]
    if int8:
        stores.append("int8")
    if binary:
        stores.append("binary")
    combinations = [
        Steps(share, rank_share, store)
        for store, rank_share, share in itertools.product(
            stores, (0.0, *low_rank), (0.0, *prune)
        )
    ]
    # Stable, so that variants of as many steps stand in the order of the command.
    return sorted(combinations[1:], key=lambda variant: variant.name.count("+"))


def check_shares(option: str, shares: Sequence[float]) -> None:
    """Raise ConfigError for a share that is none, or that stands there twice."""
    for share in shares:
        # All of its digits, and none that say nothing.
        text = repr(share).removesuffix(".0")
        if not 0 < share < 1:
            raise ConfigError(
                f"{option} {text}: give a share of 1 that goes, such as 0.5 for half"
            )
        if shares.count(share) > 1:
            raise ConfigError(f"{option} {text} is given twice")
