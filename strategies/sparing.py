"""Calls a strategy that fails on one reply once more, without that reply.

A strategy may be anybody's, and Flower's own raise on odd replies. One client must not end
everybody's run that way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from flwr.app import Message
from flwr.serverapp.strategy import Strategy

from fedlearn.errors import FedlearnError, StrategyError

Result = TypeVar("Result")


def spare(
    call: Callable[[list[Message]], Result],
    strategy: Strategy,
    replies: list[Message],
    at_least: int,
    is_usable: Callable[[Result], bool],
) -> tuple[Result, list[Message], str]:
    """Return what a call makes of replies, those that it had to do without, and why.

    call: of a verb of the strategy; raises StrategyError. at_least: replies that are
    needed. is_usable: whether a result without a reply is any good. Raises the first
    StrategyError when neither one reply is at fault, nor fewer than half of them, each
    by itself.
    """
    before = dict(vars(strategy))
    try:
        return call(replies), [], ""
    except StrategyError as error:
        first = error
    if len(replies) - 1 < max(1, at_least):
        raise first

    def attempt(some: list[Message]) -> Result | None:
        # What the failed call has set is undone, as far as it was set and not changed.
        vars(strategy).update(before)
        try:
            result = call(some)
        # Any error: a strategy may have emptied what it was given, as QFedAvg does.
        except FedlearnError:
            return None
        return result if is_usable(result) else None

    for place, reply in enumerate(replies):
        result = attempt(replies[:place] + replies[place + 1 :])
        if result is not None:
            return result, [reply], str(first)
    # Several at once: those on which it fails even alone.
    odd: list[Message] = []
    others: list[Message] = []
    for reply in replies:
        fails = attempt([reply]) is None
        (odd if fails else others).append(reply)
    if len(others) >= max(1, at_least) and len(odd) < len(others):
        result = attempt(others)
        if result is not None:
            return result, odd, str(first)
    raise first
