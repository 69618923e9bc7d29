"""The coordinator's end of the exchange as a pure state machine: events in, actions out.

No socket, clock, disk or thread is here: `fedlearn.server.service` feeds it what happens and does what it asks, and a test
feeds it anything in any order. Times are seconds of any clock that never goes back.

A piece of work has a key (round, kind, turn) and belongs to one client. It is open until its answer is stored, its client
fails or declines, or its batch ends. An open one is sent to its client at every connection, and an upload goes on where the
last connection left it. Of an answer one copy is counted: the same bytes again are acknowledged again, others are refused.
"""

from __future__ import annotations

import heapq
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from fedlearn.exchange import NEWEST, OLDEST
from fedlearn.exchange import exchange_pb2 as pb
from fedlearn.exchange.keys import Key, of, proto
from fedlearn.exchange.transfer import Data, Pace, Received, Transfer
from fedlearn.system.checksum import crc32

IDLE_S, BUSY_S = 200.0, 1.0
"""How often an agent is heard without work and with it."""

SILENT_S, LEASE_S = 2 * IDLE_S, 4.5
"""Silence that ends its connection, without work and with it."""

AGAIN_S = 10.0, 30.0
"""When an agent may come back whose place another with the same identity took: two of them take turns, and slowly."""

HELLO_S = 5.0
"""How long a new connection may keep silent."""

REPAIRS = 3
"""How often a client is sent the model that it lacks before its work counts as failed."""

TEXT = 500
"""Characters of an agent's reason that are kept."""

FACTS_BYTES = 4096
"""Characters that an agent may tell of its device at a time."""


@dataclass(frozen=True)
class Work:
    """What one client is to do: the task as it is sent, its payloads, and a check of an answer's header.

    check: answer → the reason why it cannot be counted, or None.
    """

    client: int
    key: Key
    task: pb.Task
    payloads: tuple[bytes, ...]
    check: Callable[[bytes], str | None] = lambda data: None


@dataclass(frozen=True)
class Send:
    """Send a frame to a connection; data: of its chunk, if it has one."""

    session: int
    frame: pb.CoordinatorFrame
    data: Data = b""


@dataclass(frozen=True)
class Store:
    """Bring an answer to disk, then call `Rounds.stored`."""

    client: int
    key: Key
    data: bytes
    checksum: int  # CRC-32


@dataclass(frozen=True)
class Answer:
    """A client's answer, stored; or the reason why there is none. Once for each piece of work."""

    client: int
    key: Key
    data: bytes | None = None
    failure: str | None = None


@dataclass(frozen=True)
class Lacking:
    """A client lacks the model that a difference starts from: send it, by `Rounds.repair`."""

    client: int
    key: Key


@dataclass(frozen=True)
class Told:
    """What a client's agent tells of its device."""

    client: int
    facts: dict[str, str | float]


@dataclass(frozen=True)
class Drop:
    """End a connection."""

    session: int
    reason: str


_REPLACED = pb.CoordinatorFrame(
    goodbye=pb.Goodbye(
        reason="another agent attends with the identity of this one",
        again_min_ms=round(1000 * AGAIN_S[0]),
        again_max_ms=round(1000 * AGAIN_S[1]),
    )
)

Action = Send | Store | Answer | Lacking | Told | Drop


@dataclass
class _Open:
    """A piece of work that has no answer yet."""

    work: Work
    batch: _Batch
    down: Transfer
    received: Received = field(default_factory=Received)
    total: int = 0
    checksum: int = 0
    answer: bytes | None = None  # whole, and on its way to the disk
    lacking: bool = False  # the model that the client lacks is being prepared
    repairs: int = 0


@dataclass
class _Batch:
    """Pieces of work that end together: at a time, or when enough of them are answered."""

    keys: set[tuple[int, Key]]
    enough: int
    answered: int = 0


@dataclass
class _Session:
    client: int | None  # of the certificate; None: the hello decides
    heard: float
    greeted: bool = False
    due: float = float("inf")  # when `tick` looks at it again


class Rounds:
    """See the module. Every method that tells of an event returns the actions that follow from it."""

    def __init__(
        self,
        run: bytes,
        experiment: str,
        clients: int,
        limit_bytes: int,
        draw: Callable[[], float] = lambda: 0.5,
    ) -> None:
        """Take what a welcome says. draw: a random number from 0 to 1, for the times at which agents come back."""
        self.run, self.experiment, self.clients, self.limit_bytes, self.draw = (
            run,
            experiment,
            clients,
            limit_bytes,
            draw,
        )
        self.sessions: dict[int, _Session] = {}
        self.attending: dict[int, int] = {}  # client → its connection
        self.open: dict[int, dict[Key, _Open]] = {}  # client → its work
        self.done: dict[
            int, dict[Key, tuple[int, int]]
        ] = {}  # client → length and CRC-32 of the answers that count
        self.farewell: pb.CoordinatorFrame | None = (
            None  # what everybody is told, once it drains
        )
        self.counters: Counter[str] = Counter()
        self._alarms: list[
            tuple[float, int]
        ] = []  # (due, connection); an entry that is not its connection's due is void
        self._ends: list[tuple[float, int, _Batch]] = []
        self._batches = 0
        self.paces: dict[int, Pace] = {}  # client → of its downloads
        self._oldest = 0  # of the rounds whose answers count

    # What connections do

    def connected(self, session: int, client: int | None, now: float) -> list[Action]:
        """Take a connection; client: of its certificate."""
        self.sessions[session] = found = _Session(client, now)
        self._watch(session, found)
        return []

    def gone(self, session: int) -> list[Action]:
        """Forget a connection that ended; its client's work stays open, and what it sent so far is kept."""
        found = self.sessions.pop(session, None)
        if (
            found
            and found.client is not None
            and self.attending.get(found.client) == session
        ):
            del self.attending[found.client]
            self.counters["left"] += 1
            for open in self.open.get(found.client, {}).values():
                open.down.break_off()
        return []

    def heard(self, session: int, frame: pb.AgentFrame, now: float) -> list[Action]:
        """Take a frame of an agent; a renewal is not for here, the service answers it itself."""
        found = self.sessions.get(session)
        if found is None:
            return []
        found.heard = now
        kind = frame.WhichOneof("frame")
        if kind == "hello":
            return self._hello(session, found, frame.hello, now)
        if not found.greeted or found.client is None:
            return self._part(session, "say hello first", "no_hello")
        if kind == "heartbeat":
            return [Send(session, pb.CoordinatorFrame(heartbeat=pb.Heartbeat()))]
        if kind == "chunk":
            return self._chunk(session, found.client, frame.chunk)
        if kind == "ack":
            return self._received(session, found.client, frame.ack, now)
        if kind == "facts":
            return self._facts(found.client, frame.facts.json)
        if kind == "failure":
            return self._failure(session, found.client, frame.failure)
        return self._part(
            session, "a frame that this coordinator does not know", "unknown_frame"
        )

    def tick(self, now: float) -> list[Action]:
        """End connections that are silent and batches whose time is over."""
        actions: list[Action] = []
        while self._alarms and self._alarms[0][0] <= now:
            due, session = heapq.heappop(self._alarms)
            found = self.sessions.get(session)
            if found is None or found.due != due:
                continue
            found.due = float("inf")
            limit = self._silence(found)
            if (
                found.heard + limit <= now
            ):  # the same sum as the alarm's: a difference may round to less, and never come due
                self.counters["silent"] += 1
                actions += [
                    Drop(session, f"silent for {limit:g} s"),
                    *self.gone(session),
                ]
            else:
                self._watch(session, found)
        while self._ends and self._ends[0][0] <= now:
            _, _, batch = heapq.heappop(self._ends)
            actions += self._end(batch, "no answer in time")
        return actions

    def next_alarm(self) -> float:
        """Return when `tick` is due."""
        return min(
            self._alarms[0][0] if self._alarms else float("inf"),
            self._ends[0][0] if self._ends else float("inf"),
        )

    # What the run asks

    def ask(
        self,
        works: Sequence[Work],
        now: float,
        deadline_s: float = float("inf"),
        enough: int | None = None,
    ) -> list[Action]:
        """Open a batch: it ends after deadline_s, or when ``enough`` of its pieces are answered.

        No piece may be open already. One whose answer is known by `recall` is asked for anew.
        """
        batch = _Batch(
            {(w.client, w.key) for w in works}, len(works) if enough is None else enough
        )
        if deadline_s < float("inf"):
            self._batches += 1
            heapq.heappush(self._ends, (now + deadline_s, self._batches, batch))
        actions: list[Action] = []
        for work in works:
            self.open.setdefault(work.client, {})[work.key] = found = _Open(
                work, batch, self._transfer(work)
            )
            self._forget(work.client, work.key)
            if (session := self.attending.get(work.client)) is not None:
                actions += self._send(session, found, now)
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
        found = self.open.get(client, {}).get(key)
        if found is None:
            return []
        found.work = Work(client, key, task, payloads, found.work.check)
        found.down, found.lacking = self._transfer(found.work), False
        session = self.attending.get(client)
        return self._send(session, found, now) if session is not None else []

    def refuse(self, client: int, key: Key, reason: str) -> list[Action]:
        """Tell a client that its stored answer cannot be counted."""
        self.counters["refused"] += 1
        session = self.attending.get(client)
        return (
            []
            if session is None
            else [
                Send(
                    session,
                    pb.CoordinatorFrame(
                        refusal=pb.Refusal(key=proto(key), reason=reason)
                    ),
                )
            ]
        )

    def stored(self, client: int, key: Key) -> list[Action]:
        """Note that an answer is on disk: acknowledge it, and hand it over."""
        found = self.open.get(client, {}).get(key)
        if (
            found is None or found.answer is None
        ):  # its batch ended meanwhile: it is on disk, and not counted
            return []
        answer = Answer(client, key, found.answer)
        return [
            *self._close(client, key, found, answer),
            *self._acknowledge(client, key, len(found.answer), True),
        ]

    def recall(self, client: int, key: Key, data: bytes) -> list[Action]:
        """Note an answer that the journal holds from before a restart: its client is acknowledged it again."""
        self.done.setdefault(client, {})[key] = len(data), crc32(data)
        return self._acknowledge(client, key, len(data), True)

    def forget(self, before: int) -> None:
        """Forget the answers of the rounds before one: they are in a checkpoint."""
        self._oldest = max(self._oldest, before)
        for client, told in list(self.done.items()):
            for key in list(told):
                if key[0] < before:
                    self._forget(client, key)

    def drain(self, again: tuple[float, float] | None) -> list[Action]:
        """Send everybody away, and who comes after; again: the seconds after which to come back, None: never."""
        goodbye = pb.Goodbye(reason="the run is over", done=True)
        if again is not None:
            least, most = (
                round(1000 * again[0]),
                max(1, round(1000 * again[1])),
            )  # 0 would mean never
            goodbye = pb.Goodbye(
                reason="the coordinator restarts", again_min_ms=least, again_max_ms=most
            )
        self.farewell = pb.CoordinatorFrame(goodbye=goodbye)
        return [Send(session, self.farewell) for session in self.sessions]

    def revoke(self, clients: Iterable[int]) -> list[Action]:
        """End the connections of clients whose certificates are revoked, and their open work: nobody else can answer it."""
        refused = set(clients)
        actions: list[Action] = []
        for session in [
            number for number, found in self.sessions.items() if found.client in refused
        ]:
            actions += self._part(session, "the certificate is revoked", "revoked")
        for client in sorted(refused & self.open.keys()):
            for key in list(self.open[client]):
                actions += self._fail(client, key, "its certificate is revoked")
        return actions

    # How it works

    def _hello(
        self, session: int, found: _Session, hello: pb.Hello, now: float
    ) -> list[Action]:
        if hello.newest < OLDEST or hello.oldest > NEWEST:
            older = "agent" if hello.newest < OLDEST else "coordinator"
            text = f"the agent speaks versions {hello.oldest} to {hello.newest}, the coordinator {OLDEST} to {NEWEST}: upgrade the {older}"
            return self._part(session, text, "wrong_version")
        client = hello.client if found.client is None else found.client
        if client != hello.client:
            return self._part(
                session,
                f"the certificate is client {client}'s, not client {hello.client}'s",
                "wrong_identity",
            )
        if client >= self.clients:
            return self._part(
                session,
                f"client {client} is not of this experiment: it has clients 0 to {self.clients - 1}",
                "unknown_client",
            )
        if (
            found.greeted
        ):  # every hello is answered with all open work, payloads and all: once
            return self._part(session, "a second hello", "hello_again")
        if self.farewell is not None:
            self.counters["draining"] += 1
            return [
                Send(session, self.farewell),
                Drop(session, self.farewell.goodbye.reason),
                *self.gone(session),
            ]
        actions: list[Action] = []
        if (before := self.attending.get(client)) is not None:
            self.counters["replaced"] += 1
            actions += [
                Send(before, _REPLACED),
                Drop(before, "the client connected anew"),
                *self.gone(before),
            ]
        found.client, found.greeted = client, True
        self.attending[client] = session
        self.counters["attended"] += 1
        welcome = pb.Welcome(
            version=min(NEWEST, hello.newest),
            run=self.run,
            experiment=self.experiment,
            idle_ms=round(1000 * IDLE_S),
            busy_ms=round(1000 * BUSY_S),
            lease_ms=round(1000 * LEASE_S),
            limit_bytes=self.limit_bytes,
            round=self._oldest,
        )
        actions.append(Send(session, pb.CoordinatorFrame(welcome=welcome)))
        for key, (length, _) in self.done.get(
            client, {}
        ).items():  # it may have missed that, and will not be asked again
            actions += self._acknowledge(client, key, length, True)
        for open in self.open.get(client, {}).values():
            if not open.lacking:
                actions += self._send(session, open, now)
        return actions

    def _received(
        self, session: int, client: int, ack: pb.Ack, now: float
    ) -> list[Action]:
        """Send more of a task's payloads."""
        found = self.open.get(client, {}).get(of(ack.key))
        if found is None or found.lacking:
            return []
        return self._chunks(session, found, found.down.acknowledged(ack.offset, now))

    def _chunk(self, session: int, client: int, chunk: pb.Chunk) -> list[Action]:
        key = of(chunk.key)
        if (told := self.done.get(client, {}).get(key)) is not None:
            if (chunk.total, chunk.checksum) == told:
                self.counters["again"] += 1
                return self._acknowledge(client, key, chunk.total, True)
            return self._refusal(
                session, chunk.key, "another answer is stored already", "differs"
            )
        found = self.open.get(client, {}).get(key)
        if found is None:
            return self._refusal(
                session, chunk.key, "the round is over, or never asked for this", "late"
            )
        if found.answer is not None:
            return []
        if (
            chunk.total > self.limit_bytes
            or chunk.offset + len(chunk.data) > chunk.total
        ):
            text = f"an answer of {chunk.total} bytes, of which {len(chunk.data)} at {chunk.offset}; at most {self.limit_bytes} are taken"
            return [
                *self._refusal(session, chunk.key, text, "oversized"),
                *self._fail(client, key, text),
            ]
        if not found.received.length or (found.total, found.checksum) != (
            chunk.total,
            chunk.checksum,
        ):
            found.received, found.total, found.checksum = (
                Received(),
                chunk.total,
                chunk.checksum,
            )
        if found.received.add(chunk.offset, chunk.data):
            self.counters["chunks_again"] += 1
        if found.received.length < found.total:
            return self._acknowledge(client, key, found.received.length, False)
        received, found.received = found.received, Received()
        if received.checksum != found.checksum:
            self.counters["damaged"] += 1
            return self._acknowledge(client, key, 0, False)
        data = received.whole()
        if (reason := found.work.check(data)) is not None:
            return [
                *self._refusal(session, chunk.key, reason, "malformed"),
                *self._fail(client, key, reason),
            ]
        found.answer = data
        return [Store(client, key, data, found.checksum)]

    def _facts(self, client: int, text: str) -> list[Action]:
        try:
            told = json.loads(text) if len(text) <= FACTS_BYTES else None
        except (ValueError, RecursionError):
            told = None
        if not isinstance(told, dict) or not all(
            _fact(value) for value in told.values()
        ):
            self.counters["wrong_facts"] += 1
            return []
        return [Told(client, told)]

    def _failure(self, session: int, client: int, failure: pb.Failure) -> list[Action]:
        key = of(failure.key)
        found = self.open.get(client, {}).get(key)
        if found is None or found.answer is not None or found.lacking:
            return []
        if failure.reason == pb.Failure.LACKING and found.repairs < REPAIRS:
            self.counters["lacking"] += 1
            found.lacking, found.repairs = True, found.repairs + 1
            return [Lacking(client, key)]
        declined = failure.reason == pb.Failure.DECLINED
        self.counters["declined" if declined else "failed"] += 1
        text = failure.text[:TEXT] or "the agent gave no reason"
        return self._fail(client, key, f"declined: {text}" if declined else text)

    def _transfer(self, work: Work) -> Transfer:
        return Transfer(work.payloads, self.paces.setdefault(work.client, Pace()))

    def _send(self, session: int, open: _Open, now: float) -> list[Action]:
        """Send a task, and the first of its payloads that the client does not have."""
        found = self.sessions[session]
        found.heard = max(
            found.heard, now
        )  # it could not know before that it must be heard more often
        self._watch(session, found)
        chunks = (
            self._chunks(session, open, open.down.begin(now)) if open.down.total else []
        )
        return [Send(session, pb.CoordinatorFrame(task=open.work.task)), *chunks]

    def _chunks(
        self, session: int, open: _Open, chunks: Iterable[tuple[int, Data]]
    ) -> list[Action]:
        key, total = proto(open.work.key), open.down.total
        return [
            Send(
                session,
                pb.CoordinatorFrame(
                    chunk=pb.Chunk(key=key, offset=offset, total=total)
                ),
                data,
            )
            for offset, data in chunks
        ]

    def _silence(self, found: _Session) -> float:
        if not found.greeted:
            return HELLO_S
        # An agent that waits for its missing model has nothing to do.
        busy = found.client is not None and any(
            not open.lacking for open in self.open.get(found.client, {}).values()
        )
        return LEASE_S if busy else SILENT_S

    def _watch(self, session: int, found: _Session) -> None:
        """Set a connection's alarm, unless it is due before already."""
        due = found.heard + self._silence(found)
        if due >= found.due:
            return
        found.due = due
        heapq.heappush(self._alarms, (due, session))
        if (
            len(self._alarms) > 2 * len(self.sessions) + 100
        ):  # most are void: of ended connections, or of idle ones set earlier
            self._alarms = [
                (other.due, number) for number, other in self.sessions.items()
            ]
            heapq.heapify(self._alarms)

    def _fail(self, client: int, key: Key, reason: str) -> list[Action]:
        found = self.open.get(client, {}).get(key)
        return (
            []
            if found is None
            else self._close(client, key, found, Answer(client, key, failure=reason))
        )

    def _close(
        self, client: int, key: Key, found: _Open, answer: Answer
    ) -> list[Action]:
        del self.open[client][key]
        if not self.open[client]:
            del self.open[client]
        found.batch.keys.discard((client, key))
        if answer.data is not None:
            self.done.setdefault(client, {})[key] = len(answer.data), found.checksum
            found.batch.answered += 1
            if found.batch.answered == found.batch.enough:
                return [
                    answer,
                    *self._end(found.batch, "enough others answered before"),
                ]
        return [answer]

    def _forget(self, client: int, key: Key) -> None:
        if (
            self.done.get(client, {}).pop(key, None) is not None
            and not self.done[client]
        ):
            del self.done[client]

    def _end(self, batch: _Batch, reason: str) -> list[Action]:
        actions: list[Action] = []
        for client, key in sorted(batch.keys):
            self.counters["late"] += 1
            if (session := self.attending.get(client)) is not None:
                actions.append(
                    Send(
                        session,
                        pb.CoordinatorFrame(
                            cancel=pb.Cancel(key=proto(key), reason=reason)
                        ),
                    )
                )
            actions += self._fail(client, key, f"late: {reason}")
        return actions

    def _acknowledge(
        self, client: int, key: Key, offset: int, stored: bool
    ) -> list[Action]:
        session = self.attending.get(client)
        ack = pb.Ack(key=proto(key), offset=offset, stored=stored)
        return [] if session is None else [Send(session, pb.CoordinatorFrame(ack=ack))]

    def _refusal(
        self, session: int, key: pb.Key, reason: str, counter: str
    ) -> list[Action]:
        self.counters[counter] += 1
        return [
            Send(
                session, pb.CoordinatorFrame(refusal=pb.Refusal(key=key, reason=reason))
            )
        ]

    def _part(self, session: int, reason: str, counter: str) -> list[Action]:
        self.counters[counter] += 1
        frame = pb.CoordinatorFrame(goodbye=pb.Goodbye(reason=reason))
        return [Send(session, frame), Drop(session, reason), *self.gone(session)]


def _fact(value: object) -> bool:
    """Tell whether a value is a number that JSON can hold, or a text."""
    return isinstance(value, str) or (
        isinstance(value, int | float) and math.isfinite(value)
    )
