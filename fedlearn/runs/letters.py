"""What a strategy's messages hold: their model, which is encoded, and all else, as it is.

Arrays of the run's model go through its codecs. With a ClientApp every other record travels
as Flower serialises it, and so does a message without a model. Our own training knows models
and configs only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from flwr.app import ArrayRecord, Message

from fedlearn.arrays import Layout
from fedlearn.engine.task import AppMessage
from fedlearn.errors import RunError
from fedlearn.flower import give_id, model_name, pack, without
from fedlearn.runs.requests import configs_of


@dataclass(frozen=True)
class Letter:
    """One message of a strategy's, as it was read.

    arrays: the name of the record that is its model; None: it has none. records: what a
    ClientApp gets beside the model, serialised; b"": no app reads it.
    """

    message: Message
    arrays: str | None
    records: bytes

    @property
    def kind(self) -> str:
        """Return the message's type."""
        return self.message.metadata.message_type

    @property
    def node(self) -> int:
        """Return the message's node."""
        return self.message.metadata.dst_node_id

    @property
    def model(self) -> ArrayRecord | None:
        """Return the message's model."""
        if self.arrays is None:
            return None
        return self.message.content.array_records[self.arrays]

    def envelope(self) -> AppMessage:
        """Return what a ClientApp is told beside the model."""
        metadata = self.message.metadata
        return AppMessage(
            self.records, self.arrays, metadata.group_id, metadata.message_id
        )

    def is_like(self, other: Letter) -> bool:
        """Tell whether two messages to one node ask the same of it."""
        # An app reads all of them; our own training configs alone.
        if self.records or other.records:
            request = (self.records, self.message.metadata.group_id)
            return request == (other.records, other.message.metadata.group_id)
        return configs_of(self.message) == configs_of(other.message)


class Letters:
    """Reads the messages of one run."""

    def __init__(self, layout: Layout, has_app: bool, takes_any: bool) -> None:
        """Take what the run's model is.

        has_app: a ClientApp or mods get the messages. takes_any: they may come without a
        model; our own training needs one.
        """
        self.layout = layout
        self.has_app = has_app
        self.takes_any = takes_any

    def read(self, messages: Sequence[Message]) -> list[Letter]:
        """Return messages as letters; raises RunError for what clients cannot be sent."""
        # A cohort shares its records: each is read and serialised once.
        names: dict[int, str | None] = {}
        packed: dict[tuple[Any, ...], bytes] = {}
        letters = []
        for message in messages:
            content = message.content
            if id(content) not in names:
                names[id(content)] = self._model_name(message)
            records = b""
            arrays = names[id(content)]
            if self.has_app:
                key = tuple((name, id(record)) for name, record in content.items())
                if key not in packed:
                    packed[key] = pack(without(content, arrays))
                records = packed[key]
            letters.append(Letter(message, arrays, records))
        return letters

    def _model_name(self, message: Message) -> str | None:
        records = message.content.array_records
        if self.takes_any:
            return model_name(self.layout, message.content)
        if len(records) != 1:
            raise RunError(
                f"the strategy sent a message with {len(records)} ArrayRecords; "
                "one model is expected"
            )
        return next(iter(records))


def named(messages: Sequence[Message], round: int, first: int) -> list[Message]:
    """Return a round's messages with ids; one that is there twice is copied.

    first: the number of the first, of which all count on.
    """
    objects = set()
    numbered = []
    for number, message in enumerate(messages, first):
        metadata = message.metadata
        # An id names one message: its reply would answer both.
        if id(message) in objects:
            message = Message(
                message.content,
                metadata.dst_node_id,
                metadata.message_type,
                group_id=metadata.group_id,
            )
        objects.add(id(message))
        give_id(message, f"{round}-{number}")
        numbered.append(message)
    return numbered


def turns(letters: Sequence[Letter]) -> Iterator[dict[int, list[Letter]]]:
    """Yield letters of one model by node, so that a node has one thing to do at a time.

    Those that ask the same of a node stand together: it works once for them.
    """
    # A node that is asked for two things does them one after another.
    every: list[dict[int, list[Letter]]] = []
    for letter in letters:
        for turn in every:
            alike = turn.get(letter.node)
            if alike is None or alike[0].is_like(letter):
                turn.setdefault(letter.node, []).append(letter)
                break
        else:
            every.append({letter.node: [letter]})
    yield from every
