"""What a user's own code does in a run: at its begin, after each round, at its end."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fedlearn.errors import UserError
from fedlearn.records.line import Line

Weights = Callable[[], Mapping[str, "np.ndarray[Any, Any]"]]
"""Gives the model of a round by the names of its ``state_dict``."""


class Callback:
    """Looks on while a run goes on, and may end it; each method does nothing by itself.

    Each call gets copies, so that nothing it does with them reaches the run. What a callback
    raises ends the run, which can be resumed from its last checkpoint.
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


class Watchers:
    """The callbacks of a run, as one."""

    def __init__(self, callbacks: Sequence[Callback] = ()) -> None:
        """Take the callbacks, in the order in which each of them is called."""
        self._callbacks = tuple(callbacks)

    def begin(self, facts: Mapping[str, Any]) -> None:
        """Show every callback a copy of what a run begins with."""
        for callback in self._callbacks:
            callback.begin(copy.deepcopy(dict(facts)))

    def after_round(self, line: Line, weights: Weights) -> bool:
        """Show a round to every callback, and return whether one of them ends the run.

        Raises UserError for an answer that is neither True, False nor None.
        """
        answers = [
            _answer(callback, callback.after_round(copy.deepcopy(line), weights))
            for callback in self._callbacks
        ]
        return any(answers)

    def end(self, summary: Mapping[str, Any]) -> None:
        """Show every callback a copy of a run's summary."""
        for callback in self._callbacks:
            callback.end(copy.deepcopy(dict(summary)))


def _answer(callback: Callback, answer: object) -> bool:
    # A generator, or the coroutine of an async method, would count as True.
    if answer is None or isinstance(answer, bool | np.bool_):
        return bool(answer)
    raise UserError(
        f"{type(callback).__name__}.after_round returned a {type(answer).__name__}; "
        "return True to end the run, False or None to go on"
    )
