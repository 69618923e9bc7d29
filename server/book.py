"""The book of work: which pieces are open, in which stage, and which answers count.

A piece of work of one client is in one stage at a time. What moves it (a dot: nothing
changes; a dash: the caller must not):

```
           ask    answer  wrong   lacking   failure repair stored   end     recall   forget
UNKNOWN    ASKED  .       .       .         .       .      .        .       ANSWERED .
ASKED      -      STORING UNKNOWN REPAIRING UNKNOWN ASKED  .        UNKNOWN -        .
REPAIRING  -      STORING UNKNOWN .         .       ASKED  .        UNKNOWN -        .
STORING    -      .       .       .         .       .      ANSWERED UNKNOWN -        .
ANSWERED   ASKED  .       .       .         .       .      .        .       ANSWERED UNKNOWN
```

ask: `Rounds.ask`. answer: the last chunk of an answer that its check takes. wrong: an answer
that its check refuses, or that is too long. lacking: the client lacks the model that a
difference starts from; after `REPAIRS` of them it counts as a failure. failure: it failed
or declined. repair, stored, recall: the methods of `Rounds`. end: the batch's deadline,
enough other answers, or a revocation. forget: the round's answers are in a checkpoint.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from fedlearn.exchange import exchange_pb2 as pb
from fedlearn.exchange.keys import Key
from fedlearn.exchange.transfer import ChunkBuffer, Pace, Transfer
from fedlearn.server.work import WorkOrder

# How often a client is sent the model that it lacks before its work counts as failed.
REPAIRS = 3


class WorkStage(Enum):
    """Where a piece of work stands; see the module's table."""

    # Never asked, ended without an answer, or forgotten.
    UNKNOWN = auto()
    # Sent, or to be sent as soon as its client attends; an answer may be on its way up.
    ASKED = auto()
    # The model that its client lacks is being prepared: there is nothing to do meanwhile.
    REPAIRING = auto()
    # The answer is whole, and on its way to the disk.
    STORING = auto()
    # The answer is on disk and counts, once.
    ANSWERED = auto()


@dataclass
class Batch:
    """Pieces of work that end together: at a time, or when enough are answered."""

    pieces: set[tuple[int, Key]]
    enough: int
    answered: int = 0


@dataclass
class OpenWork:
    """A piece of work that has no stored answer yet."""

    order: WorkOrder
    batch: Batch
    down: Transfer
    stage: WorkStage = WorkStage.ASKED
    repairs: int = 0
    received: ChunkBuffer = field(default_factory=ChunkBuffer)
    # Of the answer that is on its way up, as its chunks say: bytes, and CRC-32.
    total: int = 0
    checksum: int = 0
    answer: bytes = b""

    @property
    def is_repairing(self) -> bool:
        """Tell whether the client waits for a model, and has nothing to do."""
        return self.stage is WorkStage.REPAIRING

    def take(self, chunk: pb.Chunk) -> int:
        """Take a part of the answer; returns how many of its bytes came before.

        A chunk of another answer than the one before begins anew.
        """
        # Length and checksum name an answer: training done anew may give other bytes.
        said = (chunk.total, chunk.checksum)
        if not self.received.length or said != (self.total, self.checksum):
            self.received = ChunkBuffer()
            self.total = chunk.total
            self.checksum = chunk.checksum
        return self.received.add(chunk.offset, chunk.data)

    def complete(self) -> bytes | None:
        """Return the whole answer and forget its chunks; None when it is damaged."""
        received = self.received
        # Its memory is given back, whatever the answer is worth.
        self.received = ChunkBuffer()
        if received.checksum != self.checksum:
            return None
        return received.whole()


class WorkBook:
    """See the module. ``open_work`` and ``answered`` hold no client without an entry."""

    def __init__(self) -> None:
        """Begin without work."""
        self.open_work: dict[int, dict[Key, OpenWork]] = {}
        # client → length and CRC-32 of each answer that counts.
        self.answered: dict[int, dict[Key, tuple[int, int]]] = {}
        # client → of its downloads, over all its work.
        self.paces: dict[int, Pace] = {}
        # (due, count, batch); the count breaks ties, for batches have no order.
        self._deadlines: list[tuple[float, int, Batch]] = []
        self._batch_count = 0

    def stage(self, client: int, key: Key) -> WorkStage:
        """Return where a piece of work stands."""
        work = self.find(client, key)
        if work is not None:
            return work.stage
        if self.answer_of(client, key) is not None:
            return WorkStage.ANSWERED
        return WorkStage.UNKNOWN

    def find(self, client: int, key: Key) -> OpenWork | None:
        """Return a piece of work that is open."""
        return self.open_work.get(client, {}).get(key)

    def of(self, client: int) -> Iterator[OpenWork]:
        """Yield a client's open work, in the order in which it was asked."""
        yield from self.open_work.get(client, {}).values()

    def answer_of(self, client: int, key: Key) -> tuple[int, int] | None:
        """Return length and CRC-32 of an answer that counts."""
        return self.answered.get(client, {}).get(key)

    def is_busy(self, client: int) -> bool:
        """Tell whether a client has work to do."""
        # One that waits for its missing model has nothing to do, and may be silent.
        works = self.of(client)
        return any(not work.is_repairing for work in works)

    def break_off(self, client: int) -> None:
        """Note that a client left while its payloads were on their way."""
        for work in self.of(client):
            work.down.break_off()

    def begin_batch(
        self, orders: Sequence[WorkOrder], enough: int, due: float
    ) -> Batch:
        """Return the batch of some orders, which ends when it is due at the latest."""
        pieces = {(order.client, order.key) for order in orders}
        batch = Batch(pieces, enough)
        # A batch without a deadline ends by its answers alone.
        if due < float("inf"):
            self._batch_count += 1
            heapq.heappush(self._deadlines, (due, self._batch_count, batch))
        return batch

    def open_order(self, order: WorkOrder, batch: Batch) -> OpenWork:
        """Open a piece of work; an answer that counted before does not any more."""
        work = OpenWork(order, batch, self._transfer(order))
        self.open_work.setdefault(order.client, {})[order.key] = work
        # Asked anew, it is wanted again: the answer of before would be acknowledged.
        self.forget(order.client, order.key)
        return work

    def repair(self, work: OpenWork, order: WorkOrder) -> None:
        """Replace a piece of work by one whose payloads begin with a missing model."""
        work.order = order
        work.down = self._transfer(order)
        # An answer that came whole meanwhile stays on its way to the disk.
        if work.is_repairing:
            work.stage = WorkStage.ASKED

    def close(self, work: OpenWork) -> None:
        """Take a piece of work out of the book and out of its batch."""
        client = work.order.client
        key = work.order.key
        del self.open_work[client][key]
        # An empty entry would keep a client that left for the rest of the run.
        if not self.open_work[client]:
            del self.open_work[client]
        work.batch.pieces.discard((client, key))

    def count(self, client: int, key: Key, length: int, checksum: int) -> None:
        """Note an answer that counts."""
        self.answered.setdefault(client, {})[key] = (length, checksum)

    def forget(self, client: int, key: Key) -> None:
        """Forget an answer that counts, if there is one."""
        answers = self.answered.get(client, {})
        if answers.pop(key, None) is not None and not answers:
            del self.answered[client]

    def forget_before(self, first_round: int) -> None:
        """Forget the answers of the rounds before one."""
        for client, answers in list(self.answered.items()):
            for key in list(answers):
                if key[0] < first_round:
                    self.forget(client, key)

    def overdue(self, now: float) -> Iterator[Batch]:
        """Yield each batch whose time is over, once."""
        while self._deadlines and self._deadlines[0][0] <= now:
            yield heapq.heappop(self._deadlines)[2]

    def next_deadline(self) -> float:
        """Return when `overdue` is due."""
        if not self._deadlines:
            return float("inf")
        return self._deadlines[0][0]

    def _transfer(self, order: WorkOrder) -> Transfer:
        # Of the client and not of its work: a slow link stays slow.
        pace = self.paces.setdefault(order.client, Pace())
        return Transfer(order.payloads, pace)
