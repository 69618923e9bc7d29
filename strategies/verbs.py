"""`Verbs`: calls the verbs of a strategy, seeded, checked, and with errors that name them."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.serverapp.strategy import Strategy

from fedlearn.errors import FedlearnError, VerbError
from fedlearn.seeds import derive
from fedlearn.strategies import answers


@dataclass(frozen=True)
class _Verb:
    """purpose: of its random numbers. check: refuses an answer of the wrong kind."""

    purpose: str
    check: Callable[[str, int, Any], Any]


# The purposes stand in seeds, so a change changes the cohorts of Flower's strategies.
VERBS: Mapping[str, _Verb] = {
    "configure_train": _Verb("strategy-configure", answers.messages),
    "aggregate_train": _Verb("strategy-aggregate", answers.aggregate),
    "configure_evaluate": _Verb("strategy-configure-evaluate", answers.messages),
    "aggregate_evaluate": _Verb("strategy-aggregate-evaluate", answers.metrics),
}


class Verbs:
    """The verbs of one strategy."""

    def __init__(self, strategy: Strategy, seed: int) -> None:
        """Take the strategy, and the experiment's seed."""
        self.strategy = strategy
        self.name = type(strategy).__name__
        self.seed = seed

    def call(self, name: str, number: int, attempt: int, *arguments: Any) -> Any:
        """Return what a verb answers for an attempt of a round.

        Raises VerbError for any error of its own, RunError for a wrong answer: it may
        be the user's, and Flower's own raise on odd rounds.
        """
        verb = VERBS[name]
        seed = derive(self.seed, verb.purpose, number, attempt)
        random.seed(seed)
        # numpy takes 32 bits.
        np.random.seed(seed % 2**32)
        try:
            answer = getattr(self.strategy, name)(number, *arguments)
            return verb.check(f"{self.name}.{name}", number, answer)
        except FedlearnError:
            raise
        except Exception as error:
            raise self.error(name, number, error) from error

    def error(self, name: str, number: int, error: Exception) -> VerbError:
        """Return the error that names a verb, and what it raised."""
        kind = type(error).__name__
        return VerbError(f"{self.name}.{name} raised {kind} in round {number}: {error}")
