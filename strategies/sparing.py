"""Calls a strategy that fails on one reply once more, without that reply.

A strategy may be anybody's, and Flower's own raise on odd replies. One client must not end
everybody's run that way.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from flwr.app import ArrayRecord, Message, RecordDict
from flwr.serverapp.strategy import Strategy

from fedlearn.errors import FedlearnError, StrategyError
from fedlearn.flower import with_same_arrays

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
    before = _memento(vars(strategy))
    try:
        return call([_copied(reply) for reply in replies]), [], ""
    except StrategyError as error:
        first = error
    if len(replies) - 1 < max(1, at_least):
        raise first

    def attempt(some: list[Message]) -> Result | None:
        # What the failed call has set is undone, as far as it was set and not changed.
        vars(strategy).update(_memento(before))
        try:
            result = call([_copied(reply) for reply in some])
        # Any error: without those replies the strategy may fail in another way.
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


def _memento(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a strategy's attributes, with models that a call can empty and not these."""
    return {
        name: with_same_arrays(value) if isinstance(value, ArrayRecord) else value
        for name, value in values.items()
    }


def _copied(reply: Message) -> Message:
    """Return a reply whose records can be emptied, as QFedAvg does, while it stays whole.

    Its arrays are shared, so that this costs no model's memory.
    """
    copied = copy.copy(reply)
    records = {
        name: with_same_arrays(record) if isinstance(record, ArrayRecord) else record
        for name, record in reply.content.items()
    }
    copied.content = RecordDict(records)
    return copied
