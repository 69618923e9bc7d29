"""An agent's end of the exchange as a pure state machine: events in, actions out.

Its other end is `fedlearn.server.rounds`. No socket, clock, disk or process is here:
`fedlearn.clients.agent.agent` reports events and performs the actions. Times are seconds of any
clock that never goes back.

A piece of work passes through the stages of `fedlearn.clients.agent.pieces`, one after another:

    stage     event                       next
    none      task with payloads          COMING
    none      task without payloads       WORKING
    none      answer recalled             ANSWERED
    COMING    last payload byte           WORKING
    WORKING   work answered               ANSWERED
    WORKING   work failed                 none
    any       task with another text      COMING
    any       cancel                      none
    any       refusal                     none
    any       answer stored               none
    any       task of a later round       none
    any       welcome to another run      none
    any       welcome to a later round    none

All other events leave the stage as it is; a lost connection, too. So a connection that breaks,
or either end that is killed, costs no work. It costs at most one chunk sent again, of a payload
as of an answer. An answer stays on the agent's disk until the coordinator has it on its own.

Answers go only to a connection that asked for them: a coordinator that was just started may not
know yet what it will ask.
"""

from __future__ import annotations

from collections.abc import Callable

from fedlearn.clients.agent.actions import (
    Action,
    Begin,
    Certificate,
    Connect,
    Discard,
    Enter,
    Leave,
    Note,
    SendFrame,
    failure_of,
)
from fedlearn.clients.agent.backoff import backoff_bound_s
from fedlearn.clients.agent.pieces import Download, Piece, PieceStage, Upload
from fedlearn.clients.agent.room import PAYLOAD_BYTES, WorkRoom
from fedlearn.exchange import NEWEST, OLDEST
from fedlearn.exchange import exchange_pb2 as pb
from fedlearn.exchange.keys import Key, of, proto
from fedlearn.exchange.transfer import Data, Pace, Transfer
from fedlearn.system.checksum import crc32

# From the start of a try to its welcome: with thousands of agents that connect at once TLS alone
# takes seconds. After a try in vain the next one has twice as long, up to a bound: at 1 kbit/s
# TLS and its certificates take 45 s.
WELCOME_S = 15.0
MOST_WELCOME_S = 90.0


class Attendance:
    """See the module. Every method for an event returns the actions that follow from it.

    After a `Connect` or a `Leave`, report no event of the connection before; after a `Discard`,
    none of its work.
    """

    def __init__(
        self,
        client: int,
        software: str,
        draw: Callable[[], float],
        most_bytes: int = PAYLOAD_BYTES,
        installs: bool = False,
        diagnoses: bool = False,
    ) -> None:
        """Take who the agent is.

        draw: returns a random number from 0 to 1. most_bytes: of all the work it holds.
        installs: whether it installs releases. diagnoses: whether it looks at its device when
        it is asked.
        """
        self.client = client
        self.software = software
        self.draw = draw
        self._room = WorkRoom(most_bytes)
        self._installs = installs
        self._diagnoses = diagnoses
        # Of an answer, as the coordinator says.
        self.limit_bytes = 0
        # Why no new work is taken now.
        self.decline_reason: str | None = None
        self.run = b""
        self.connected = False
        self.pieces: dict[Key, Piece] = {}
        # Of uploads.
        self.pace = Pace()
        self._welcomed = False
        # From the start of this try to its welcome, at most, and when it began.
        self.patience_s = WELCOME_S
        self._opened_s = 0.0
        # The first round whose answers are still wanted.
        self._round = 0
        # To connect, since the last welcome.
        self._tries = 0
        # When the coordinator last sent a frame.
        self._heard_s = 0.0
        # When this agent last sent one that shows it lives.
        self._spoke_s = 0.0
        # Heartbeats and silence, until a welcome says otherwise.
        self._idle_s = 120.0
        self._busy_s = 1.0
        self._lease_s = 4.5

    # Events

    def opened(self, now: float) -> list[Action]:
        """Take a new connection."""
        self._close()
        self.connected = True
        self._opened_s = now
        self._heard_s = now
        self._spoke_s = now
        hello = pb.Hello(
            oldest=OLDEST,
            newest=NEWEST,
            software=self.software,
            client=self.client,
            installs=self._installs,
            diagnoses=self._diagnoses,
            fetches=self._installs,
        )
        return [SendFrame(pb.AgentFrame(hello=hello))]

    def lost(self, reason: str, silent: bool = False) -> list[Action]:
        """Take the end of the connection, or a failure to make one.

        silent: nothing was heard of the coordinator for too long.
        """
        self._close()
        self._tries += 1
        # Full jitter: thousands of agents that lost one coordinator spread over the
        # bound.
        wait = backoff_bound_s(self._tries) * self.draw()
        return [
            Note(f"not connected: {reason}; again in {wait:.1f} s"),
            Connect(wait, silent),
        ]

    def heard(self, frame: pb.CoordinatorFrame, now: float) -> list[Action]:
        """Take a frame of the coordinator; one of a later version changes nothing."""
        if not self.connected:
            return []
        self._heard_s = now
        match frame.WhichOneof("frame"):
            case "welcome":
                return self._welcome(frame.welcome, now)
            case "task":
                return self._task(frame.task, now)
            case "chunk":
                return self._payload_chunk(frame.chunk, now)
            case "ack":
                return self._acknowledged(frame.ack, now)
            case "refusal":
                return self._refused(frame.refusal)
            case "cancel":
                return self._cancelled(frame.cancel)
            case "goodbye":
                return self._goodbye(frame.goodbye)
            case "certificate":
                renewed = frame.certificate
                return [Certificate(renewed.certificate, renewed.expires)]
        return []

    def answered(self, key: Key, answer: bytes, now: float) -> list[Action]:
        """Take the answer of a piece of work; it is on this disk already."""
        piece = self.pieces.get(key)
        # It was cancelled meanwhile, or is another piece by now.
        if piece is None or piece.stage is not PieceStage.WORKING:
            return [Discard(key)]
        if not self._room.takes(self.pieces.values(), answer):
            text = f"the answers kept have over {self._room.most_bytes} bytes with this one"
            failure = self.failed(key, pb.Failure.FAILED, text)
            return [Discard(key), *failure]
        piece.stage = PieceStage.ANSWERED
        piece.payload_bytes = 0
        piece.answer = answer
        return self._upload(key, piece, now) if piece.requested else []

    def failed(self, key: Key, reason: int, text: str) -> list[Action]:
        """Take the failure of a piece of work; reason: of `pb.Failure`."""
        piece = self.pieces.get(key)
        if piece is None or piece.stage is not PieceStage.WORKING:
            return []
        del self.pieces[key]
        # A connection that has not asked yet will ask for it again, if it still wants it.
        return [failure_of(key, reason, text)] if piece.requested else []

    def recall(self, key: Key, task: bytes, answer: bytes) -> list[Action]:
        """Take an answer that this disk holds from before a restart, after an `Enter`.

        task: as it was sent.
        """
        # The round is over for the coordinator, so it will never ask for this answer.
        if key[0] < self._round:
            return [Discard(key)]
        # Beyond the owner's limit the work is done anew, if it is still asked for.
        if not self._room.takes(self.pieces.values(), answer):
            return [Discard(key)]
        self.pieces[key] = Piece(PieceStage.ANSWERED, task, answer=answer)
        return []

    def tick(self, now: float) -> list[Action]:
        """Send a heartbeat when it is due, and give up a connection that is silent."""
        if not self.connected:
            return []
        if self._silence_limit() <= now:
            if not self._welcomed:
                self.patience_s = min(2 * self.patience_s, MOST_WELCOME_S)
            return self.lost("the coordinator is silent", silent=True)
        if self._spoke_s + self._interval() <= now:
            self._spoke_s = now
            return [SendFrame(pb.AgentFrame(heartbeat=pb.Heartbeat()))]
        return []

    def next_alarm(self, now: float) -> float:
        """Return when `tick` is due."""
        if not self.connected:
            return float("inf")
        return min(self._silence_limit(), self._spoke_s + self._interval())

    # The connection

    def _busy(self) -> bool:
        """Tell whether there is work, or a payload or an answer on its way."""
        return any(
            piece.requested or piece.stage is PieceStage.WORKING
            for piece in self.pieces.values()
        )

    def _interval(self) -> float:
        """Return the seconds between heartbeats."""
        return self._busy_s if self._busy() else self._idle_s

    def _silence_limit(self) -> float:
        """Return when a silent coordinator is given up.

        A coordinator without work for this agent speaks only when spoken to: it answers heartbeats.
        """
        # Until the welcome the agent does not know how often it will be heard.
        if not self._welcomed:
            return self._heard_s + self.patience_s
        due_s = self._heard_s
        if not self._busy():
            due_s = max(self._heard_s + self._idle_s, self._spoke_s)
        return due_s + self._lease_s

    def _close(self) -> None:
        """Forget the connection; pieces of work stay."""
        self.connected = False
        self._welcomed = False
        # What this connection asked for must be asked for again over the next one.
        for piece in self.pieces.values():
            piece.requested = False
            if piece.upload is not None:
                piece.upload.transfer.break_off()

    def _welcome(self, welcome: pb.Welcome, now: float) -> list[Action]:
        if not self._welcomed:
            # The next connection over this link takes about as long.
            twice_s = 2 * (now - self._opened_s)
            self.patience_s = min(MOST_WELCOME_S, max(WELCOME_S, twice_s))
        # Only a welcome restarts the count of tries: an open socket proves no
        # coordinator.
        self._tries = 0
        self._welcomed = True
        self._round = welcome.round
        self.limit_bytes = welcome.limit_bytes
        self._idle_s = welcome.idle_ms / 1000
        # A coordinator that says 0 must not make heartbeats without a pause.
        self._busy_s = max(welcome.busy_ms, 1) / 1000
        self._lease_s = welcome.lease_ms / 1000
        # A fleet without a run asks for no work: what is here of a run stays for it.
        if not welcome.run:
            return [Enter(welcome)]
        # Nobody will ask for work of another run, or of a round that is over.
        if welcome.run == self.run:
            actions = self._drop_before(welcome.round)
        else:
            actions = self._drop_all(list(self.pieces))
        self.run = welcome.run
        return [*actions, Enter(welcome)]

    def _goodbye(self, goodbye: pb.Goodbye) -> list[Action]:
        self._close()
        # No time to return after: the coordinator does not want this agent again.
        if not goodbye.again_max_ms:
            return [Leave(goodbye.reason, goodbye.done)]
        span_ms = max(0, goodbye.again_max_ms - goodbye.again_min_ms)
        # The bounds are a window, so that a herd that was sent away comes back spread
        # out.
        wait_s = (goodbye.again_min_ms + span_ms * self.draw()) / 1000
        return [Note(f"{goodbye.reason}; again in {wait_s:.1f} s"), Connect(wait_s)]

    # A task and its payloads

    def _task(self, task: pb.Task, now: float) -> list[Action]:
        """Take a task, which may have come before."""
        key = of(task.key)
        # Deterministic, as the bytes decide whether this is the same work as before.
        text = task.SerializeToString(deterministic=True)
        # The coordinator is past all earlier rounds.
        actions = self._drop_before(key[0])
        piece = self.pieces.get(key)
        if piece is None or piece.text != text:
            return [*actions, *self._drop(key), *self._start(key, task, text)]
        # It came before over this connection.
        if piece.requested:
            return actions
        piece.requested = True
        if piece.stage is PieceStage.ANSWERED:
            actions += self._upload(key, piece, now)
        return actions

    def _start(self, key: Key, task: pb.Task, text: bytes) -> list[Action]:
        """Take a new piece of work, or decline it."""
        total = sum(task.sizes)
        pieces = self.pieces.values()
        objection = self._room.objection(pieces, total, len(task.sizes))
        if objection is not None:
            return [failure_of(key, pb.Failure.DECLINED, objection)]
        # It is declined before its payloads come: the link may be the reason.
        if self.decline_reason is not None:
            return [
                Note(f"round {key[0]}: declined {self.decline_reason}"),
                failure_of(key, pb.Failure.DECLINED, self.decline_reason),
            ]
        download = Download(task, total)
        self.pieces[key] = Piece(
            PieceStage.COMING,
            text,
            requested=True,
            download=download,
            payload_bytes=total,
        )
        # Without payloads there is no chunk whose arrival would begin the work.
        return [] if total else self._begin(key, self.pieces[key], download)

    def _payload_chunk(self, chunk: pb.Chunk, now: float) -> list[Action]:
        """Take a part of a task's payloads, and acknowledge how much is here.

        The coordinator goes on there, now or after a break.
        """
        key = of(chunk.key)
        piece = self.pieces.get(key)
        # Chunks of work that was cancelled, or has failed, may still be on their way.
        if piece is None or not piece.requested:
            return []
        download = piece.download
        # All of it came before.
        if download is None:
            return self._acknowledge(key, chunk.total, now)
        # Nothing later could be placed; the next connection goes on from the last ack.
        if chunk.offset + len(chunk.data) > download.total:
            return self.lost("a payload came in pieces that do not fit")
        download.received.add(chunk.offset, chunk.data)
        length = download.received.length
        actions = self._acknowledge(key, length, now)
        if length == download.total:
            actions += self._begin(key, piece, download)
        return actions

    def _acknowledge(self, key: Key, length: int, now: float) -> list[Action]:
        """Tell the coordinator how many bytes of a task's payloads are here."""
        # This shows that the agent lives, as a heartbeat does.
        self._spoke_s = now
        return [SendFrame(pb.AgentFrame(ack=pb.Ack(key=proto(key), offset=length)))]

    def _begin(self, key: Key, piece: Piece, download: Download) -> list[Action]:
        """Have the work begin; the payloads are not held here any longer."""
        piece.stage = PieceStage.WORKING
        piece.download = None
        return [Begin(key, download.task, download.payloads())]

    # An answer

    def _upload(self, key: Key, piece: Piece, now: float) -> list[Action]:
        """Send an answer, over a connection that asked for it."""
        answer = piece.answer
        if len(answer) > self.limit_bytes:
            text = (
                f"its answer has {len(answer)} bytes; "
                f"the coordinator takes {self.limit_bytes}"
            )
            return [*self._drop(key), failure_of(key, pb.Failure.FAILED, text)]
        # Made once: over a new connection it goes on from what was acknowledged.
        if piece.upload is None:
            piece.upload = Upload(Transfer([answer], self.pace), crc32(answer))
        chunks = piece.upload.transfer.begin(now)
        return self._chunks(key, piece.upload, chunks, now)

    def _acknowledged(self, ack: pb.Ack, now: float) -> list[Action]:
        """Take how much of an answer has arrived."""
        key = of(ack.key)
        # The coordinator has it on its own disk, so this copy is not needed.
        if ack.stored:
            return self._drop(key)
        piece = self.pieces.get(key)
        if piece is None or piece.upload is None or not piece.requested:
            return []
        chunks = piece.upload.transfer.acknowledged(ack.offset, now)
        return self._chunks(key, piece.upload, chunks, now)

    def _chunks(
        self, key: Key, upload: Upload, chunks: list[tuple[int, Data]], now: float
    ) -> list[Action]:
        """Send chunks of an answer: offset and data of each."""
        # A chunk shows that this agent lives, as a heartbeat does.
        if chunks:
            self._spoke_s = now
        return [*upload.frames(key, chunks)]

    # The end of a piece of work

    def _refused(self, refusal: pb.Refusal) -> list[Action]:
        key = of(refusal.key)
        note = Note(f"the answer to {_title(key)} is refused: {refusal.reason}")
        return [note, *self._drop(key)]

    def _cancelled(self, cancel: pb.Cancel) -> list[Action]:
        key = of(cancel.key)
        note = Note(f"{_title(key)} is not needed any more: {cancel.reason}")
        return [note, *self._drop(key)]

    def _drop_before(self, number: int) -> list[Action]:
        """Drop all work of rounds before one."""
        earlier = [key for key in self.pieces if key[0] < number]
        return self._drop_all(earlier)

    def _drop_all(self, keys: list[Key]) -> list[Action]:
        actions: list[Action] = []
        for key in keys:
            actions += self._drop(key)
        return actions

    def _drop(self, key: Key) -> list[Action]:
        """Drop a piece of work, if it is here."""
        if self.pieces.pop(key, None) is None:
            return []
        return [Discard(key)]


def _title(key: Key) -> str:
    number, kind, _ = key
    return f"round {number} ({kind})"
