"""What a user's own code does in a run: at its begin, after each round, at its end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fedlearn.records.line import Line

Weights = Callable[[], Mapping[str, "np.ndarray[Any, Any]"]]
"""Gives the model of a round by the names of its ``state_dict``."""


class Callback:
    """Looks on while a run goes on, and may end it; each method does nothing by itself.

    What a callback raises ends the run, which can be resumed from its last checkpoint.
    """

    def begin(self, facts: Mapping[str, Any]) -> None:
        """Look at a run that begins or goes on.

        facts: ``name`` and ``rounds``; ``data``, ``model``, ``strategy``, ``codec`` and
        ``engine`` as text; ``lines``: of the rounds that a resumed run has done.
        """

    def after_round(self, line: Line, weights: Weights) -> bool | None:
        """Look at a round's line, and at its model; True ends the run after this round.

        A run that is ended has a model, a summary and a checkpoint, and can be resumed.
        """

    def end(self, summary: Mapping[str, Any]) -> None:
        """Look at the summary of a run that has ended."""
