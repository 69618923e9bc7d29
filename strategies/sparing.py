"""Calls a strategy that fails on one reply once more, without that reply.

A strategy may be anybody's, and Flower's own raise on odd replies. One client must not end
everybody's run that way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from flwr.app import Message
from flwr.serverapp.strategy import Strategy

from fedlearn.errors import StrategyError

Result = TypeVar("Result")


def spare(
    call: Callable[[list[Message]], Result],
    strategy: Strategy,
    replies: list[Message],
    at_least: int,
    is_usable: Callable[[Result], bool],
) -> tuple[Result, Message | None, str]:
    """Return what a call makes of replies, the one that it had to do without, and why.

    call: of a verb of the strategy; raises StrategyError. at_least: replies that are
    needed. is_usable: whether a result without a reply is any good. Raises the first
    StrategyError when no single reply is at fault.
    """
    before = dict(vars(strategy))
    try:
        return call(replies), None, ""
    except StrategyError as error:
        first = error
    if len(replies) - 1 < max(1, at_least):
        raise first
    for place, reply in enumerate(replies):
        # What the failed call has set is undone, as far as it was set and not changed.
        vars(strategy).update(before)
        try:
            result = call(replies[:place] + replies[place + 1 :])
        except StrategyError:
            continue
        if is_usable(result):
            return result, reply, str(first)
    raise first
