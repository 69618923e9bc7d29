"""Which codecs a run's arrays travel by: none, those that are named, or chosen ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from flwr.app import ArrayRecord

from fedlearn.apps.differences import is_float
from fedlearn.apps.messages import Part
from fedlearn.apps.options import RunOptions
from fedlearn.codec import AUTO
from fedlearn.codec.choice import Situation, choose

# Flower's strategies that average updates, so that unbiased noise cancels.
_AVERAGING = ("FedAvg", "FedAvgM", "FedProx", "FedAdam", "FedAdagrad", "FedYogi")

# Of a node's first record, where that is ours to choose. At 3 bits a value a trained model is
# as good as before, within two points; at 1 bit it loses ten (docs/flower.md).
FIRST = "cvq(3,0)"

# Where a strategy may do anything with what comes back.
CAREFUL_FIRST = "q8"


def _floats(record: ArrayRecord) -> int:
    sizes = [prod(array.shape) for array in record.values() if is_float(array)]
    return sum(sizes)


@dataclass
class Codecs:
    """The codecs of a run; what is "auto" is chosen by its first arrays.

    first: of the first record that a node is sent; "": whole. nodes: of the run. strategy:
    the class that drives the rounds, as far as it is known. why: the reason of a choice.
    """

    up: str
    down: str
    first: str
    nodes: int
    strategy: type | None = None
    why: str = ""

    @classmethod
    def of(cls, options: RunOptions, nodes: int) -> Codecs:
        """Return the codecs that a run is asked for."""
        first = options.first
        # Who leaves the way down to us leaves its first record too.
        if options.down == AUTO and not first:
            first = AUTO
        return cls(options.up, options.down, first, nodes)

    def look(self, parts: Sequence[Part]) -> None:
        """Choose what is to be chosen, once there are arrays of floats."""
        if AUTO not in (self.up, self.down, self.first):
            return
        sizes = [_floats(part.arrays) for part in parts if part.is_arrays]
        parameters = max(sizes, default=0)
        # The first messages of a secure aggregation, or of a query, have none.
        if not parameters:
            return
        # Rounds and cohort are the app's secret until it ends.
        situation = Situation(
            parameters, self.nodes, self.nodes, rounds=0, averages=self._averages()
        )
        choice = choose(situation)
        self.why = choice.why
        if self.up == AUTO:
            self.up = choice.up
        if self.down == AUTO:
            self.down = choice.down
        if self.first == AUTO:
            self.first = self._chosen_first(choice.down)

    def _chosen_first(self, down: str) -> str:
        # What is too small for a coarse codec is so at first as well.
        if down == "f16":
            return down
        return FIRST if self._averages() else CAREFUL_FIRST

    def _averages(self) -> bool:
        """Return whether the strategy is known to average updates."""
        # An own loop, or a start that never calls its parent.
        if self.strategy is None:
            return False
        # An own class is what the class of Flower's is that it stands on.
        for parent in self.strategy.__mro__:
            if parent.__module__.startswith("flwr."):
                return parent.__name__ in _AVERAGING
        return False
