"""Which codecs a run's arrays travel by: none, those that are named, or chosen ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from flwr.app import ArrayRecord

from fedlearn.apps.differences import is_float
from fedlearn.apps.messages import Part
from fedlearn.codec import AUTO, FEEDBACK, canonical
from fedlearn.codec.choice import Situation, choose
from fedlearn.errors import ConfigError
from fedlearn.names import nearest

_KEYS = ("codec.up", "codec.down")

# Flower's strategies that average updates, so that unbiased noise cancels.
_AVERAGING = ("FedAvg", "FedAvgM", "FedProx", "FedAdam", "FedAdagrad", "FedYogi")


def read(changes: Sequence[str]) -> tuple[str, str]:
    """Return the codecs up and down of texts such as "codec.up=eden1"; "": none.

    Raises ConfigError for another key, and for a codec that apps cannot use.
    """
    values = dict.fromkeys(_KEYS, "")
    for change in changes:
        key, separator, text = change.partition("=")
        key = key.strip()
        # Any other key is one of experiments, or of the app's own config.
        if not separator or key not in values:
            raise ConfigError(
                f"--set {change}: fedlearn run knows {' and '.join(_KEYS)}, as "
                f"--set codec.up=eden1; the app's own keys go into --run-config."
                f"{nearest(key, _KEYS)}"
            )
        values[key] = _codec(key, text.strip().strip("\"'"))
    return values["codec.up"], values["codec.down"]


def _codec(key: str, text: str) -> str:
    if text in (AUTO, ""):
        return text
    if text.startswith(FEEDBACK):
        raise ConfigError(
            f"{key} = '{text}': error feedback needs a residual of each client, which an "
            f"app's messages do not have; use {key} = '{text.removeprefix(FEEDBACK)}'"
        )
    return canonical(text, ConfigError)


def _floats(record: ArrayRecord) -> int:
    sizes = [prod(array.shape) for array in record.values() if is_float(array)]
    return sum(sizes)


@dataclass
class Codecs:
    """The codecs of a run; what is "auto" is chosen by its first arrays.

    nodes: of the run. strategy: the class that drives the rounds, as far as it is known.
    why: the reason of a choice.
    """

    up: str
    down: str
    nodes: int
    strategy: type | None = None
    why: str = ""

    def look(self, parts: Sequence[Part]) -> None:
        """Choose what is to be chosen, once there are arrays of floats."""
        if AUTO not in (self.up, self.down):
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
