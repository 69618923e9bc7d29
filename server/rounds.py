"""The coordinator's end of the exchange as a pure state machine: events in, actions out.

No socket, clock, disk or thread is here: `fedlearn.server.service` feeds it what happens
and does what it asks, and a test feeds it anything in any order. Times are seconds of any
clock that never goes back.

A piece of work is open until its answer is stored, its client fails or declines, or its
batch ends; `fedlearn.server.book` has the table of its stages. An open one is sent to its
client at every connection, and an upload goes on where the last connection left it. Of an
answer one copy is counted: the same bytes again are acknowledged again, others are refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from fedlearn.exchange import exchange_pb2 as pb
from fedlearn.exchange.keys import Key, of, proto
from fedlearn.exchange.transfer import Data
from fedlearn.server import frames
from fedlearn.server.actions import (
    Action,
    DeviceFacts,
    SendToAgent,
    StoreAnswer,
    parse_facts,
)
from fedlearn.server.book import REPAIRS, Batch, OpenWork, WorkBook, WorkStage
from fedlearn.server.reception import Reception, RunTerms
from fedlearn.server.sessions import Session
from fedlearn.server.work import ModelMissing, WorkOrder, WorkResult
from fedlearn.system.checksum import crc32
from fedlearn.text import shortened


class Rounds:
    """See the module. Every method that takes an event returns the actions that follow.

    ``session`` is always the number of a connection. ``counters`` counts events by name.
    """

    def __init__(
        self, run: bytes, experiment: str, clients: int, limit_bytes: int
    ) -> None:
        """Take what a welcome says of the run; see `RunTerms`."""
        self.limit_bytes = limit_bytes
        self.counters: Counter[str] = Counter()
        self.book = WorkBook()
        self._reception = Reception(
            RunTerms(run, experiment, clients, limit_bytes),
            self.counters,
            self.book.is_busy,
            self.book.break_off,
        )
        self._table = self._reception.table
        # The first round whose answers still count; earlier ones are in a checkpoint.
        self._oldest_round = 0

    @property
    def sessions(self) -> Mapping[int, Session]:
        """Return the connections by their numbers."""
        return self._table.by_number

    @property
    def attending(self) -> Mapping[int, int]:
        """Return the number of each attending client's connection."""
        return self._table.attending

    @property
    def clients(self) -> int:
        """Return how many clients the run has."""
        return self._reception.terms.clients

    @property
    def farewell(self) -> pb.CoordinatorFrame | None:
        """Return what everybody is told, once it drains."""
        return self._reception.farewell

    # What connections do

    def connected(self, session: int, client: int | None, now: float) -> list[Action]:
        """Take a connection; client: of its certificate."""
        self._table.add(session, client, now)
        return []

    def gone(self, session: int) -> list[Action]:
        """Forget a connection that ended.

        Its client's work stays open, and what it sent so far is kept.
        """
        self._reception.gone(session)
        return []

    def heard(self, session: int, frame: pb.AgentFrame, now: float) -> list[Action]:
        """Take a frame of an agent, but for a renewal: the service answers that itself."""
        connection = self._table.by_number.get(session)
        if connection is None:
            return []
        # Whatever it says, it is alive.
        connection.heard = now
        kind = frame.WhichOneof("frame")
        if kind == "hello":
            return self._hello(connection, frame.hello, now)
        # Nothing counts before the hello, which says whose it is.
        if not connection.greeted or connection.client is None:
            return self._reception.part(session, "say hello first", "no_hello")
        client = connection.client
        match kind:
            case "heartbeat":
                return [SendToAgent(session, frames.heartbeat())]
            case "chunk":
                return self._chunk(session, client, frame.chunk)
            case "ack":
                return self._acknowledged(session, client, frame.ack, now)
            case "facts":
                return self._facts(client, frame.facts.json)
            case "failure":
                return self._failure(client, frame.failure)
        reason = "a frame that this coordinator does not know"
        return self._reception.part(session, reason, "unknown_frame")

    def tick(self, now: float) -> list[Action]:
        """End connections that are silent and batches whose time is over."""
        actions = self._reception.drop_silent(now)
        for batch in self.book.overdue(now):
            actions += self._end(batch, "no answer in time")
        return actions

    def next_alarm(self) -> float:
        """Return when `tick` is due."""
        silence = self._table.next_alarm()
        deadline = self.book.next_deadline()
        return min(silence, deadline)

    # What the run asks

    def ask(
        self,
        orders: Sequence[WorkOrder],
        now: float,
        deadline_s: float = float("inf"),
        enough: int | None = None,
    ) -> list[Action]:
        """Open a batch: it ends after deadline_s, or when ``enough`` pieces are answered.

        No piece may be open already. One whose answer is known by `recall` is asked anew.
        """
        if enough is None:
            enough = len(orders)
        batch = self.book.begin_batch(orders, enough, now + deadline_s)
        actions: list[Action] = []
        for order in orders:
            work = self.book.open_order(order, batch)
            actions += self._send_if_attending(work, now)
        return actions

    def repair(
        self,
        client: int,
        key: Key,
        task: pb.Task,
        payloads: tuple[bytes, ...],
        now: float,
    ) -> list[Action]:
        """Send a client's work anew, beginning with the model that it lacks."""
        work = self.book.find(client, key)
        if work is None:
            return []
        order = WorkOrder(client, key, task, payloads, work.order.check)
        self.book.repair(work, order)
        return self._send_if_attending(work, now)

    def refuse(self, client: int, key: Key, reason: str) -> list[Action]:
        """Tell a client that its stored answer cannot be counted."""
        self.counters["refused"] += 1
        return self._reception.to_client(client, frames.refusal(key, reason))

    def stored(self, client: int, key: Key) -> list[Action]:
        """Note that an answer is on disk: acknowledge it, and hand it over."""
        work = self.book.find(client, key)
        # Its batch ended meanwhile: the answer is on disk, and does not count.
        if work is None or work.stage is not WorkStage.STORING:
            return []
        length = len(work.answer)
        # Closed before it counts: a piece is in one place of the book at a time.
        self.book.close(work)
        self.book.count(client, key, length, work.checksum)
        actions: list[Action] = [WorkResult(client, key, work.answer)]
        batch = work.batch
        batch.answered += 1
        # Equal, not at least: it ends once.
        if batch.answered == batch.enough:
            actions += self._end(batch, "enough others answered before")
        return [*actions, *self._acknowledge(client, key, length, stored=True)]

    def recall(self, client: int, key: Key, data: bytes) -> list[Action]:
        """Note an answer that the journal holds from before a restart.

        Its client is acknowledged it again.
        """
        length = len(data)
        self.book.count(client, key, length, crc32(data))
        return self._acknowledge(client, key, length, stored=True)

    def forget(self, before: int) -> None:
        """Forget the answers of the rounds before one: they are in a checkpoint."""
        # A repeated round does not call answers back that were forgotten.
        self._oldest_round = max(self._oldest_round, before)
        self.book.forget_before(before)

    def drain(self, again: tuple[float, float] | None) -> list[Action]:
        """Send everybody away, and who comes after.

        again: the seconds after which to come back, None: never.
        """
        if again is None:
            farewell = frames.goodbye_for_good()
        else:
            farewell = frames.goodbye_until("the coordinator restarts", again)
        # Set before anybody is told: who connects meanwhile is told, too.
        self._reception.farewell = farewell
        return [SendToAgent(session, farewell) for session in self.sessions]

    def revoke(self, clients: Iterable[int]) -> list[Action]:
        """End connections and open work of clients whose certificates are revoked.

        The work ends because nobody else can answer it.
        """
        revoked = set(clients)
        actions: list[Action] = []
        # A copy, because each end changes the table.
        for connection in list(self.sessions.values()):
            if connection.client in revoked:
                reason = "the certificate is revoked"
                actions += self._reception.part(connection.number, reason, "revoked")
        # Sorted, so that the log of a run is the same each time.
        for client in sorted(revoked & self.book.open_work.keys()):
            for work in list(self.book.of(client)):
                actions += self._fail(work, "its certificate is revoked")
        return actions

    def expire(self, sessions: Iterable[int]) -> list[Action]:
        """End connections whose certificates have expired; their work waits for them.

        An agent that has renewed its certificate comes back with the new one at once.
        """
        actions: list[Action] = []
        for session in sessions:
            actions += self._reception.expire(session)
        return actions

    # A hello

    def _hello(self, connection: Session, hello: pb.Hello, now: float) -> list[Action]:
        """Take an agent in and send it all that it may have missed, or turn it away."""
        turned_away = self._reception.turn_away(connection, hello)
        if turned_away is not None:
            return turned_away
        actions = self._reception.welcome(connection, hello, self._oldest_round)
        client = hello.client
        # It may have missed the acknowledgement, and will not be asked for these again.
        for key, (length, _) in self.book.answered.get(client, {}).items():
            actions += self._acknowledge(client, key, length, stored=True)
        for work in self.book.of(client):
            if not work.is_repairing:
                actions += self._send(connection.number, work, now)
        return actions

    # An answer

    def _chunk(self, session: int, client: int, chunk: pb.Chunk) -> list[Action]:
        """Take a part of an answer; the last one leads to `StoreAnswer`."""
        key = of(chunk.key)
        stored = self.book.answer_of(client, key)
        if stored is not None:
            # The same again: its acknowledgement was lost on the way.
            # Length and CRC-32, as the whole answer is not in memory any more.
            if stored == (chunk.total, chunk.checksum):
                self.counters["again"] += 1
                return self._acknowledge(client, key, chunk.total, stored=True)
            reason = "another answer is stored already"
            return self._refuse(session, key, reason, "differs")
        work = self.book.find(client, key)
        if work is None:
            reason = "the round is over, or never asked for this"
            return self._refuse(session, key, reason, "late")
        # The same again, while the disk writes: `stored` acknowledges it.
        if work.stage is WorkStage.STORING:
            return []
        end = chunk.offset + len(chunk.data)
        # Before a byte is held: a chunk must not take memory beyond the limit.
        if chunk.total > self.limit_bytes or end > chunk.total:
            return self._oversized(session, work, chunk)
        if work.take(chunk):
            self.counters["chunks_again"] += 1
        if work.received.length < work.total:
            return self._acknowledge(client, key, work.received.length, stored=False)
        return self._whole(session, work)

    def _oversized(self, session: int, work: OpenWork, chunk: pb.Chunk) -> list[Action]:
        """End a piece of work whose answer has more bytes than it says or may have."""
        reason = (
            f"an answer of {chunk.total} bytes, of which {len(chunk.data)} "
            f"at {chunk.offset}; at most {self.limit_bytes} are taken"
        )
        refusal = self._refuse(session, work.order.key, reason, "oversized")
        return [*refusal, *self._fail(work, reason)]

    def _whole(self, session: int, work: OpenWork) -> list[Action]:
        """Check an answer that is whole, and have it stored."""
        client = work.order.client
        key = work.order.key
        data = work.complete()
        # Which chunk is damaged cannot be told, so all are asked for again.
        if data is None:
            self.counters["damaged"] += 1
            return self._acknowledge(client, key, 0, stored=False)
        # The header alone: decoding takes long, and the run's thread does it.
        reason = work.order.check(data)
        if reason is not None:
            refusal = self._refuse(session, key, reason, "malformed")
            return [*refusal, *self._fail(work, reason)]
        work.answer = data
        work.stage = WorkStage.STORING
        return [StoreAnswer(client, key, data, work.checksum)]

    def _failure(self, client: int, failure: pb.Failure) -> list[Action]:
        """Take word that a client cannot do its work, at all or without a model."""
        key = of(failure.key)
        work = self.book.find(client, key)
        # A whole answer counts. A lack that is being mended is known already: an agent that
        # was sent a task twice says so twice.
        if work is None or work.stage is not WorkStage.ASKED:
            return []
        if failure.reason == pb.Failure.LACKING and work.repairs < REPAIRS:
            self.counters["lacking"] += 1
            work.stage = WorkStage.REPAIRING
            work.repairs += 1
            return [ModelMissing(client, key)]
        reason = shortened(failure.text) or "the agent gave no reason"
        if failure.reason == pb.Failure.DECLINED:
            self.counters["declined"] += 1
            return self._fail(work, f"declined: {reason}")
        self.counters["failed"] += 1
        return self._fail(work, reason)

    def _facts(self, client: int, text: str) -> list[Action]:
        facts = parse_facts(text)
        if facts is None:
            self.counters["wrong_facts"] += 1
            return []
        return [DeviceFacts(client, facts)]

    # Payloads on their way down

    def _send_if_attending(self, work: OpenWork, now: float) -> list[Action]:
        session = self._table.of(work.order.client)
        return [] if session is None else self._send(session, work, now)

    def _send(self, session: int, work: OpenWork, now: float) -> list[Action]:
        """Send a task, and the first of its payloads that the client does not have."""
        # Until now it was idle, and needed to be heard only seldom.
        self._table.renew_lease(session, now)
        task = SendToAgent(session, frames.task(work.order.task))
        # Without payloads the task is all there is to send.
        if not work.down.total:
            return [task]
        return [task, *self._chunks(session, work, work.down.begin(now))]

    def _acknowledged(
        self, session: int, client: int, ack: pb.Ack, now: float
    ) -> list[Action]:
        """Send more of a task's payloads."""
        work = self.book.find(client, of(ack.key))
        if work is None or work.is_repairing:
            return []
        return self._chunks(session, work, work.down.acknowledged(ack.offset, now))

    def _chunks(
        self, session: int, work: OpenWork, chunks: Iterable[tuple[int, Data]]
    ) -> list[Action]:
        key = proto(work.order.key)
        total = work.down.total
        return [
            SendToAgent(session, frames.chunk(key, offset, total), data)
            for offset, data in chunks
        ]

    # Ends

    def _fail(self, work: OpenWork, reason: str) -> list[Action]:
        """End a piece of work without an answer."""
        self.book.close(work)
        return [WorkResult(work.order.client, work.order.key, failure=reason)]

    def _end(self, batch: Batch, reason: str) -> list[Action]:
        """End all that is open of a batch."""
        actions: list[Action] = []
        # Sorted, because a set's order differs between processes.
        for client, key in sorted(batch.pieces):
            self.counters["late"] += 1
            actions += self._reception.to_client(client, frames.cancel(key, reason))
            work = self.book.find(client, key)
            if work is not None:
                actions += self._fail(work, f"late: {reason}")
        return actions

    # Frames to a client, if it attends

    def _acknowledge(
        self, client: int, key: Key, offset: int, stored: bool
    ) -> list[Action]:
        return self._reception.to_client(client, frames.ack(key, offset, stored))

    def _refuse(
        self, session: int, key: Key, reason: str, counter: str
    ) -> list[Action]:
        self.counters[counter] += 1
        return [SendToAgent(session, frames.refusal(key, reason))]
