"""An agent's end of the exchange as a pure state machine: events in, actions out; the twin of `fedlearn.server.rounds`.

No socket, clock, disk or process is here: `fedlearn.clients.agent` feeds it what happens and does what it asks. Times are
seconds of any clock that never goes back.

An answer stays on the agent's disk until the coordinator has it on its own: a connection that breaks, or either end that is
killed, costs no work and at most one chunk sent again. It goes only to a connection that asked for it: a coordinator that was
just started may not know yet what it will ask.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

from fedlearn.exchange import NEWEST, OLDEST
from fedlearn.exchange import exchange_pb2 as pb
from fedlearn.exchange.keys import Key, of, proto

SMALLEST, FIRST, LARGEST = 16 << 10, 128 << 10, 1 << 20
"""Bytes of a chunk: it grows on a fast link and shrinks on a slow one, so that a break costs little."""

QUICK_S, SLOW_S = 0.1, 0.5
"""Seconds until a chunk's acknowledgement, below which chunks grow and above which they shrink."""

WINDOW = 2
"""Chunks under way: one travels while the other is acknowledged. The first travels alone: it tells where to go on."""

LEAST_WAIT_S, MOST_WAIT_S = 0.1, 30.0
"""Before connecting again: at random up to a bound that doubles with every try (full jitter; Brooker, AWS 2015)."""


@dataclass(frozen=True)
class Send:
    """Send a frame."""

    frame: pb.AgentFrame


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
    """End the connection, if there is one, and connect again after some seconds."""

    after_s: float


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
    parts: list[bytearray]

    @property
    def whole(self) -> bool:
        return all(len(part) == size for part, size in zip(self.parts, self.task.sizes, strict=True))


@dataclass
class _Upload:
    """An answer on its way over one connection."""

    data: bytes
    checksum: int
    sent: int = 0
    acknowledged: int | None = None  # None: where the coordinator goes on is not known yet
    under_way: list[tuple[int, int, float]] = field(default_factory=list)  # of each chunk: end, size, when it was sent


class Attendance:
    """See the module. Every method that tells of an event returns the actions that follow from it.

    After a `Connect` or a `Leave` nothing more is told of the connection before, and after a `Discard` nothing of its work.
    """

    def __init__(self, client: int, software: str, draw: Callable[[], float]) -> None:
        """Take who the agent is. draw: a random number from 0 to 1."""
        self.client, self.software, self.draw = client, software, draw
        self.limit_bytes = 0
        self.run = b""
        self.connected = False
        self.working: dict[Key, bytes] = {}  # key → the task as it was sent, while there is no answer
        self.answers: dict[Key, tuple[bytes, bytes]] = {}  # key → the task, the answer: on disk
        self._asked: set[Key] = set()  # over this connection
        self._coming: dict[Key, _Coming] = {}
        self._uploads: dict[Key, _Upload] = {}
        self._reached: dict[Key, int] = {}  # bytes of answers that were acknowledged, over any connection
        self._welcomed = False
        self._chunk = FIRST
        self._tries = 0
        self._heard = self._told = 0.0
        self._idle_s, self._busy_s, self._lease_s = 120.0, 1.0, 4.5

    # What happens

    def opened(self, now: float) -> list[Action]:
        """Take a new connection."""
        self._close()
        self.connected, self._heard, self._told = True, now, now
        hello = pb.Hello(oldest=OLDEST, newest=NEWEST, software=self.software, client=self.client)
        return [Send(pb.AgentFrame(hello=hello))]

    def lost(self, reason: str) -> list[Action]:
        """Take the end of the connection, or a failure to make one."""
        if any(upload.under_way for upload in self._uploads.values()):  # perhaps a chunk takes longer than the lease
            self._chunk = max(SMALLEST, self._chunk // 2)
        self._close()
        self._tries += 1
        bound = min(MOST_WAIT_S, LEAST_WAIT_S * 2 ** min(self._tries, 20))
        wait = bound * self.draw()
        return [Note(f"not connected: {reason}; again in {wait:.1f} s"), Connect(wait)]

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
            return self._part(frame.chunk)
        if kind == "ack":
            return self._acknowledged(frame.ack, now)
        if kind == "refusal":
            return [
                Note(f"the answer to {_words(of(frame.refusal.key))} is refused: {frame.refusal.reason}"),
                *self._drop(of(frame.refusal.key)),
            ]
        if kind == "cancel":
            return [
                Note(f"{_words(of(frame.cancel.key))} is not needed any more: {frame.cancel.reason}"),
                *self._drop(of(frame.cancel.key)),
            ]
        if kind == "goodbye":
            return self._goodbye(frame.goodbye)
        if kind == "certificate":
            return [Certificate(frame.certificate.certificate, frame.certificate.expires)]
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

    def recall(self, key: Key, task: bytes, data: bytes) -> None:
        """Take an answer that this disk holds from before a restart, after an `Enter`; task: as it was sent."""
        self.answers[key] = task, data

    def tick(self, now: float) -> list[Action]:
        """Send a heartbeat when it is due, and give up a connection that is silent."""
        if not self.connected:
            return []
        if self._heard + self._silence() <= now:  # the sums of `next_alarm`: differences may round to less
            return self.lost("the coordinator is silent")
        if self._told + self._interval() <= now:
            self._told = now
            return [Send(pb.AgentFrame(heartbeat=pb.Heartbeat()))]
        return []

    def next_alarm(self, now: float) -> float:
        """Return when `tick` is due."""
        if not self.connected:
            return float("inf")
        return min(self._heard + self._silence(), self._told + self._interval())

    # How it works

    def _busy(self) -> bool:
        return bool(self.working or self._coming or self._uploads)

    def _interval(self) -> float:
        return self._busy_s if self._busy() else self._idle_s

    def _silence(self) -> float:
        return self._lease_s * (1 if self._busy() or not self._welcomed else self._idle_s / self._busy_s)

    def _close(self) -> None:
        self.connected = self._welcomed = False
        self._asked, self._coming, self._uploads = set(), {}, {}

    def _welcome(self, welcome: pb.Welcome) -> list[Action]:
        self._tries, self._welcomed = 0, True
        self.limit_bytes = welcome.limit_bytes
        self._idle_s, self._busy_s, self._lease_s = welcome.idle_ms / 1000, max(welcome.busy_ms, 1) / 1000, welcome.lease_ms / 1000
        actions = list[Action]()
        if welcome.run != self.run:  # answers to another run are nobody's
            for key in [*self.working, *self.answers]:
                actions += self._drop(key)
            self.run = welcome.run
        return [*actions, Enter(welcome)]

    def _task(self, task: pb.Task, now: float) -> list[Action]:
        key, text = of(task.key), task.SerializeToString(deterministic=True)
        actions: list[Action] = []
        for other in [k for k in [*self.working, *self.answers, *self._coming] if k[0] < key[0]]:
            actions += self._drop(other)  # the coordinator is past that round
        if key in self.answers and self.answers[key][0] == text:
            self._asked.add(key)
            return [*actions, *self._upload(key, now)]
        coming = self._coming.get(key)
        if self.working.get(key) != text and (coming is None or coming.text != text):  # otherwise it came before
            actions += self._drop(key)
            self._coming[key] = coming = _Coming(task, text, [bytearray() for _ in task.sizes])
            if coming.whole:
                actions += self._begin(key)
        self._asked.add(key)
        return actions

    def _part(self, chunk: pb.Chunk) -> list[Action]:
        key = of(chunk.key)
        coming = self._coming.get(key)
        if coming is None:
            return []  # of work that is known already, or cancelled
        if chunk.part >= len(coming.parts):
            return self.lost("a payload that the task does not name")
        part, size = coming.parts[chunk.part], coming.task.sizes[chunk.part]
        if chunk.offset < len(part):
            return []  # it came twice
        if chunk.offset > len(part) or chunk.offset + len(chunk.data) > size:
            return self.lost("a payload came in pieces that do not fit")
        part += chunk.data
        return self._begin(key) if coming.whole else []

    def _begin(self, key: Key) -> list[Action]:
        coming = self._coming.pop(key)
        self.working[key] = coming.text
        return [Begin(key, coming.task, tuple(bytes(part) for part in coming.parts))]

    def _upload(self, key: Key, now: float) -> list[Action]:
        if key in self._uploads:
            return []
        data = self.answers[key][1]
        if len(data) > self.limit_bytes:
            text = f"its answer has {len(data)} bytes; the coordinator takes {self.limit_bytes}"
            failure = pb.Failure(key=proto(key), reason=pb.Failure.FAILED, text=text)
            return [*self._drop(key), Send(pb.AgentFrame(failure=failure))]
        self._uploads[key] = _Upload(data, zlib.crc32(data), self._reached.get(key, 0))
        return self._more(key, now)

    def _more(self, key: Key, now: float) -> list[Action]:
        upload, actions = self._uploads[key], list[Action]()
        size = len(upload.data)
        window = 1 if upload.acknowledged is None else WINDOW
        # The first chunk is sent even when there is nothing left to send: its acknowledgement tells what the coordinator has.
        while len(upload.under_way) < window and (upload.sent < size or upload.acknowledged is None):
            part = upload.data[upload.sent : upload.sent + self._chunk]
            chunk = pb.Chunk(key=proto(key), offset=upload.sent, total=size, data=part, checksum=upload.checksum)
            upload.sent += len(part)
            upload.under_way.append((upload.sent, len(part), now))
            self._told = now  # it is heard by this as well
            actions.append(Send(pb.AgentFrame(chunk=chunk)))
        return actions

    def _acknowledged(self, ack: pb.Ack, now: float) -> list[Action]:
        key = of(ack.key)
        if ack.stored:
            return self._drop(key)
        upload = self._uploads.get(key)
        if upload is None or ack.offset == upload.acknowledged:  # the latter: a chunk came twice
            return []
        ends = [end for end, _, _ in upload.under_way]
        if ack.offset in ends:
            at = ends.index(ack.offset)
            _, size, when = upload.under_way[at]
            upload.acknowledged, upload.under_way = ack.offset, upload.under_way[at + 1 :]
            if now - when > SLOW_S:
                self._chunk = max(SMALLEST, self._chunk // 2)
            elif now - when < QUICK_S and size == self._chunk:  # a smaller one proves nothing
                self._chunk = min(LARGEST, 2 * self._chunk)
        else:  # it has more or less than was known: after a break, a restart, or damage
            upload.sent, upload.acknowledged, upload.under_way = min(ack.offset, len(upload.data)), None, []
        self._reached[key] = ack.offset
        return self._more(key, now)

    def _drop(self, key: Key) -> list[Action]:
        self._asked.discard(key)
        self._reached.pop(key, None)
        known = [store.pop(key, None) for store in (self.working, self.answers, self._coming, self._uploads)]
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
