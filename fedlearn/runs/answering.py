"""The replies that a strategy gets: updates, answers of ClientApps, or why there is none."""

from __future__ import annotations

from typing import Any

from flwr.app import Error, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import Strategy

from fedlearn.arrays import Layout, State
from fedlearn.engine.task import AppAnswer
from fedlearn.errors import PayloadError, reason_of
from fedlearn.flower import (
    Received,
    attach,
    copied,
    for_strategy,
    give_id,
    unpack,
)
from fedlearn.runs import reports
from fedlearn.runs.letters import Letter
from fedlearn.strategies.cohorts import takes_payloads
from fedlearn.strategies.replies import is_flowers

# What a client's replies hold: an update, other records, or why there are none.
Content = Received | RecordDict | Error


def records_of(answer: AppAnswer) -> RecordDict:
    """Return the records of an answer. Raises PayloadError for bytes that are none."""
    try:
        return unpack(answer.records)
    # A client may send anything, and Flower's reader raises many kinds of errors.
    except Exception as error:
        raise PayloadError(f"its records cannot be read: {reason_of(error)}") from error


def with_finite_metrics(records: RecordDict) -> tuple[RecordDict, list[str]]:
    """Return records without metrics that are no finite numbers, and the names of these."""
    # In their order: an app may tell its records by it.
    every: dict[str, Any] = dict(records)
    unusable: list[str] = []
    for name, record in records.metric_records.items():
        metrics, odd = reports.finite(record)
        every[name] = MetricRecord(metrics)
        unusable += odd
    return RecordDict(every), unusable


class Needs:
    """What a strategy needs of a reply to training that is no whole model."""

    def __init__(self, strategy: Strategy) -> None:
        """Take the strategy."""
        self.name = type(strategy).__name__
        self._adds = takes_payloads(strategy)
        self._is_flowers = is_flowers(strategy, "aggregate_train")

    def __call__(self, client: int, records: RecordDict) -> None:
        """Raise PayloadError for a reply with which the strategy could do nothing.

        A strategy of the user's own gets every reply. Ours add whole models. Flower's take
        one ArrayRecord, whatever arrays it has.
        """
        # Flower's own classes fail with another's advice where there are more.
        arrays = len(records.array_records)
        if self._adds or (self._is_flowers and arrays != 1):
            raise PayloadError(
                f"client {client} replied with {arrays} ArrayRecords and "
                f"{len(records.config_records)} ConfigRecords; {self.name} takes one "
                "ArrayRecord, the model's, and its MetricRecord"
            )


class Replies:
    """Makes the replies of one run."""

    def __init__(self, layout: Layout, payloads: bool) -> None:
        """Take the model's layout. payloads: the strategy adds decoded updates itself."""
        self.layout = layout
        self.payloads = payloads

    def reply(self, letter: Letter, content: Content, state: State | None) -> Message:
        """Return the reply to a message. state: of its model, as the strategy has it."""
        message = letter.message
        if isinstance(content, Error):
            reply = Message(content, reply_to=message)
        elif isinstance(content, RecordDict):
            reply = Message(copied(content), reply_to=message)
        else:
            assert state is not None
            records = self._records(letter, content, state)
            reply = Message(records, reply_to=message)
            if self.payloads:
                attach(reply, content)
        give_id(reply, f"{message.metadata.message_id}-reply")
        return reply

    def _records(self, letter: Letter, received: Received, state: State) -> RecordDict:
        """Return an update as the strategy takes it: as it was decoded, or as a model."""
        # Under the name that its client gave it, or the one the strategy knows it by.
        name = received.arrays or letter.arrays or ""
        checked: dict[str, Any] = dict(reports.records(received.header))
        if not self.payloads:
            checked[name] = self._model(received, state)
        if not received.beside:
            return RecordDict(checked)
        every: dict[str, Any] = {}
        for key, record in unpack(received.beside).items():
            # What has been checked stands where its name does.
            every[key] = checked.get(key, record)
        if self.payloads:
            every.pop(name, None)
        return RecordDict(every)

    def _model(self, received: Received, state: State) -> Any:
        # Added to the strategy's own model: what a client's copy lacks is no part of its
        # update.
        change = received.difference
        integers = state.integers + change.integers
        end = State(change.after(state.floats), integers)
        return for_strategy(self.layout, end)
