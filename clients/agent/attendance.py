"""An agent's end of the exchange as a pure state machine: events in, actions out; the twin of `fedlearn.server.rounds`.

No socket, clock, disk or process is here: `fedlearn.clients.agent.agent` feeds it what happens and does what it asks. Times are
seconds of any clock that never goes back.

An answer stays on the agent's disk until the coordinator has it on its own: a connection that breaks, or either end that is
killed, costs no work and at most one chunk sent again, of a payload as of an answer. An answer goes only to a connection that
asked for it: a coordinator that was just started may not know yet what it will ask.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate

from fedlearn.exchange import NEWEST, OLDEST
from fedlearn.exchange import exchange_pb2 as pb
from fedlearn.exchange.keys import Key, of, proto
from fedlearn.exchange.transfer import ChunkBuffer, Data, Pace, Transfer
from fedlearn.system.checksum import crc32

PAYLOAD_BYTES = 1 << 30
"""Of a task's payloads, unless the device's owner sets another limit."""

PARTS = 10_000
"""Payloads of a task."""

LEAST_WAIT_S, SOON_S, MOST_WAIT_S = 0.1, 0.7, 30.0
"""Before connecting again: at random up to a bound that doubles with every try (full jitter; Brooker, AWS 2015)."""

WELCOME_S = 15.0
"""From the start of a try to its welcome: on a slow link, or with thousands of others that come at once, TLS alone takes seconds."""

SOON = 20
"""Tries, about seven seconds of them, until the bound passes SOON_S: a coordinator that was killed is mostly back by then."""


@dataclass(frozen=True)
class Send:
    """Send a frame; data: of its chunk, if it has one."""

    frame: pb.AgentFrame
    data: Data = b""


@dataclass(frozen=True)
class Begin:
    """Work on a task whose payloads have all come."""

    key: Key
    task: pb.Task
    payloads: tuple[bytes, ...]


@dataclass(frozen=True)
class Discard:
    """Stop work on a task, where it runs, and remove its answer: it is stored elsewhere now, or is not wanted."""

    key: Key


@dataclass(frozen=True)
class Enter:
    """The coordinator's welcome: which run it is and what clients have to build. What the disk holds of that run is to be recalled."""

    welcome: pb.Welcome


@dataclass(frozen=True)
class Note:
    """Something for the log."""

    text: str


@dataclass(frozen=True)
class Connect:
    """End the connection, if there is one, and connect again after some seconds.

    anew: by another socket. The old one may wait long before it sends again what was lost, as TCP doubles its pause with each try.
    """

    after_s: float
    anew: bool = False


@dataclass(frozen=True)
class Leave:
    """End for good; done: because the run is over, and not because something is wrong with this agent."""

    reason: str
    done: bool


@dataclass(frozen=True)
class Certificate:
    """A renewed certificate."""

    certificate: bytes
    expires: int


Action = Send | Begin | Discard | Enter | Note | Connect | Leave | Certificate


@dataclass
class _Coming:
    """A task whose payloads are on their way."""

    task: pb.Task
    text: bytes  # as it was sent
    total: int  # bytes of all payloads
    received: ChunkBuffer = field(default_factory=ChunkBuffer)

    def payloads(self) -> tuple[bytes, ...]:
        """Return the payloads, once all bytes are here."""
        whole, ends = self.received.whole(), accumulate(self.task.sizes)
        return tuple(
            whole[end - size : end]
            for end, size in zip(ends, self.task.sizes, strict=True)
        )


@dataclass
class _Upload:
    """An answer on its way."""

    transfer: Transfer
    checksum: int


class Attendance:
    """See the module. Every method that tells of an event returns the actions that follow from it.

    After a `Connect` or a `Leave` nothing more is told of the connection before, and after a `Discard` nothing of its work.
    """

    def __init__(
        self,
        client: int,
        software: str,
        draw: Callable[[], float],
        most_bytes: int = PAYLOAD_BYTES,
    ) -> None:
        """Take who the agent is. draw: a random number from 0 to 1. most_bytes: of a task's payloads."""
        self.client, self.software, self.draw, self.most_bytes = (
            client,
            software,
            draw,
            most_bytes,
        )
        self.limit_bytes = 0
        self.declines: str | None = None  # why no new work is taken now
        self.run = b""
        self.connected = False
        self.working: dict[
            Key, bytes
        ] = {}  # key → the task as it was sent, while there is no answer
        self.answers: dict[
            Key, tuple[bytes, bytes]
        ] = {}  # key → the task, the answer: on disk
        self._asked: set[Key] = set()  # over this connection
        self._coming: dict[Key, _Coming] = {}
        self._uploads: dict[Key, _Upload] = {}  # of answers, over any connection
        self.pace = Pace()  # of uploads
        self._welcomed = False
        self._round = 0  # the first that answers are wanted of
        self._tries = 0
        self._heard = self._told = 0.0
        self._idle_s, self._busy_s, self._lease_s = 120.0, 1.0, 4.5

    # What happens

    def opened(self, now: float) -> list[Action]:
        """Take a new connection."""
        self._close()
        self.connected, self._heard, self._told = True, now, now
        hello = pb.Hello(
            oldest=OLDEST, newest=NEWEST, software=self.software, client=self.client
        )
        return [Send(pb.AgentFrame(hello=hello))]

    def lost(self, reason: str, silent: bool = False) -> list[Action]:
        """Take the end of the connection, or a failure to make one; silent: nothing was heard of it."""
        self._close()
        self._tries += 1
        later = min(max(0, self._tries - SOON), 20)
        wait = (
            min(
                MOST_WAIT_S, SOON_S * 2**later, LEAST_WAIT_S * 2 ** min(self._tries, 20)
            )
            * self.draw()
        )
        return [
            Note(f"not connected: {reason}; again in {wait:.1f} s"),
            Connect(wait, silent),
        ]

    def heard(self, frame: pb.CoordinatorFrame, now: float) -> list[Action]:
        """Take a frame of the coordinator."""
        if not self.connected:
            return []
        self._heard = now
        kind = frame.WhichOneof("frame")
        if kind == "welcome":
            return self._welcome(frame.welcome)
        if kind == "task":
            return self._task(frame.task, now)
        if kind == "chunk":
            return self._part(frame.chunk, now)
        if kind == "ack":
            return self._acknowledged(frame.ack, now)
        if kind == "refusal":
            return [
                Note(
                    f"the answer to {_words(of(frame.refusal.key))} is refused: {frame.refusal.reason}"
                ),
                *self._drop(of(frame.refusal.key)),
            ]
        if kind == "cancel":
            return [
                Note(
                    f"{_words(of(frame.cancel.key))} is not needed any more: {frame.cancel.reason}"
                ),
                *self._drop(of(frame.cancel.key)),
            ]
        if kind == "goodbye":
            return self._goodbye(frame.goodbye)
        if kind == "certificate":
            return [
                Certificate(frame.certificate.certificate, frame.certificate.expires)
            ]
        return []

    def answered(self, key: Key, data: bytes, now: float) -> list[Action]:
        """Take an answer that the work has given, and that is on this disk."""
        task = self.working.pop(key, None)
        if task is None:  # cancelled meanwhile
            return [Discard(key)]
        self.answers[key] = task, data
        return self._upload(key, now) if key in self._asked else []

    def failed(self, key: Key, reason: int, text: str) -> list[Action]:
        """Take work that gave no answer; reason: of `pb.Failure`."""
        if self.working.pop(key, None) is None or key not in self._asked:
            return []  # if it is wanted still, it will be asked for again
        self._asked.discard(key)
        told = pb.Failure(key=proto(key), reason=reason, text=text[:500])  # type: ignore[arg-type]  # the enum is an int
        return [Send(pb.AgentFrame(failure=told))]

    def recall(self, key: Key, task: bytes, data: bytes) -> list[Action]:
        """Take an answer that this disk holds from before a restart, after an `Enter`; task: as it was sent."""
        if key[0] < self._round:
            return [Discard(key)]
        self.answers[key] = task, data
        return []

    def tick(self, now: float) -> list[Action]:
        """Send a heartbeat when it is due, and give up a connection that is silent."""
        if not self.connected:
            return []
        if self._limit() <= now:
            return self.lost("the coordinator is silent", silent=True)
        if self._told + self._interval() <= now:
            self._told = now
            return [Send(pb.AgentFrame(heartbeat=pb.Heartbeat()))]
        return []

    def next_alarm(self, now: float) -> float:
        """Return when `tick` is due."""
        if not self.connected:
            return float("inf")
        return min(self._limit(), self._told + self._interval())

    # How it works

    def _busy(self) -> bool:
        return bool(
            self.working or self._asked & (self._coming.keys() | self._uploads.keys())
        )

    def _interval(self) -> float:
        return self._busy_s if self._busy() else self._idle_s

    def _limit(self) -> float:
        """Return when a silent coordinator is given up. Without work it speaks only when spoken to: it answers heartbeats."""
        if not self._welcomed:
            return self._heard + WELCOME_S
        idle = not self._busy()
        return (
            max(self._heard + self._idle_s, self._told) if idle else self._heard
        ) + self._lease_s

    def _close(self) -> None:
        self.connected = self._welcomed = False
        self._asked = set()
        for upload in self._uploads.values():
            upload.transfer.break_off()

    def _welcome(self, welcome: pb.Welcome) -> list[Action]:
        self._tries, self._welcomed, self._round = 0, True, welcome.round
        self.limit_bytes = welcome.limit_bytes
        self._idle_s, self._busy_s, self._lease_s = (
            welcome.idle_ms / 1000,
            max(welcome.busy_ms, 1) / 1000,
            welcome.lease_ms / 1000,
        )
        actions = list[Action]()
        known = [*self.working, *self.answers, *self._coming]
        for key in (
            known
            if welcome.run != self.run
            else [k for k in known if k[0] < self._round]
        ):
            actions += self._drop(
                key
            )  # of another run, or of a round that is over: nobody will ask for it
        self.run = welcome.run
        return [*actions, Enter(welcome)]

    def _task(self, task: pb.Task, now: float) -> list[Action]:
        key, text = of(task.key), task.SerializeToString(deterministic=True)
        actions: list[Action] = []
        for other in [
            k for k in [*self.working, *self.answers, *self._coming] if k[0] < key[0]
        ]:
            actions += self._drop(other)  # the coordinator is past that round
        if key in self.answers and self.answers[key][0] == text:
            again = key in self._asked
            self._asked.add(key)
            return actions if again else [*actions, *self._upload(key, now)]
        coming = self._coming.get(key)
        if self.working.get(key) != text and (
            coming is None or coming.text != text
        ):  # otherwise it came before
            actions += self._drop(key)
            total = sum(task.sizes)
            if total > self.most_bytes or len(task.sizes) > PARTS:
                words = f"its payloads have {total} bytes in {len(task.sizes)} parts; the owner of this device allows {self.most_bytes}"
                failure = pb.Failure(
                    key=task.key, reason=pb.Failure.DECLINED, text=words
                )
                return [*actions, Send(pb.AgentFrame(failure=failure))]
            if (
                self.declines is not None
            ):  # before its payloads come: the link may be the reason
                failure = pb.Failure(
                    key=task.key, reason=pb.Failure.DECLINED, text=self.declines[:500]
                )
                return [
                    *actions,
                    Note(f"round {key[0]}: declined {self.declines}"),
                    Send(pb.AgentFrame(failure=failure)),
                ]
            self._coming[key] = _Coming(task, text, total)
            if not total:
                actions += self._begin(key)
        self._asked.add(key)
        return actions

    def _part(self, chunk: pb.Chunk, now: float) -> list[Action]:
        """Take a part of a task's payloads, and tell how much is here: the coordinator goes on there, now or after a break."""
        key = of(chunk.key)
        if key not in self._asked:
            return []  # of work that was cancelled, or has failed
        coming = self._coming.get(key)
        if coming is None:  # all of it came before
            return self._have(key, chunk.total, now)
        if chunk.offset + len(chunk.data) > coming.total:
            return self.lost("a payload came in pieces that do not fit")
        coming.received.add(chunk.offset, chunk.data)
        told = self._have(key, coming.received.length, now)
        return (
            [*told, *self._begin(key)]
            if coming.received.length == coming.total
            else told
        )

    def _have(self, key: Key, offset: int, now: float) -> list[Action]:
        self._told = now  # it is heard by this as well
        return [Send(pb.AgentFrame(ack=pb.Ack(key=proto(key), offset=offset)))]

    def _begin(self, key: Key) -> list[Action]:
        coming = self._coming.pop(key)
        self.working[key] = coming.text
        return [Begin(key, coming.task, coming.payloads())]

    def _upload(self, key: Key, now: float) -> list[Action]:
        """Send an answer, over a connection that asked for it."""
        data = self.answers[key][1]
        if len(data) > self.limit_bytes:
            text = f"its answer has {len(data)} bytes; the coordinator takes {self.limit_bytes}"
            failure = pb.Failure(key=proto(key), reason=pb.Failure.FAILED, text=text)
            return [*self._drop(key), Send(pb.AgentFrame(failure=failure))]
        if key not in self._uploads:
            self._uploads[key] = _Upload(Transfer([data], self.pace), crc32(data))
        upload = self._uploads[key]
        return self._chunks(key, upload, upload.transfer.begin(now), now)

    def _chunks(
        self, key: Key, upload: _Upload, chunks: list[tuple[int, Data]], now: float
    ) -> list[Action]:
        if chunks:
            self._told = now
        name, total, checksum = proto(key), upload.transfer.total, upload.checksum
        return [
            Send(
                pb.AgentFrame(
                    chunk=pb.Chunk(
                        key=name, offset=offset, total=total, checksum=checksum
                    )
                ),
                data,
            )
            for offset, data in chunks
        ]

    def _acknowledged(self, ack: pb.Ack, now: float) -> list[Action]:
        key = of(ack.key)
        if ack.stored:
            return self._drop(key)
        upload = self._uploads.get(key)
        if upload is None or key not in self._asked:
            return []
        return self._chunks(
            key, upload, upload.transfer.acknowledged(ack.offset, now), now
        )

    def _drop(self, key: Key) -> list[Action]:
        self._asked.discard(key)
        known = [
            store.pop(key, None)
            for store in (self.working, self.answers, self._coming, self._uploads)
        ]
        return [Discard(key)] if any(found is not None for found in known) else []

    def _goodbye(self, goodbye: pb.Goodbye) -> list[Action]:
        self._close()
        if not goodbye.again_max_ms:
            return [Leave(goodbye.reason, goodbye.done)]
        span = goodbye.again_max_ms - goodbye.again_min_ms
        wait = (goodbye.again_min_ms + max(0, span) * self.draw()) / 1000
        return [Note(f"{goodbye.reason}; again in {wait:.1f} s"), Connect(wait)]


def _words(key: Key) -> str:
    return f"round {key[0]} ({key[1]})"
