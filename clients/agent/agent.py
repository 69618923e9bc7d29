"""The long-lived agent of one client: a stream, a disk, and a process that works.

It performs what `fedlearn.clients.agent.attendance` says. It imports neither torch nor numpy,
so an agent that waits for its first task holds a few tens of megabytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

import fedlearn
from fedlearn.clients.agent import identity, store
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
)
from fedlearn.clients.agent.attendance import Attendance
from fedlearn.clients.agent.channel import open_channel, own_identity
from fedlearn.clients.agent.doctor import Doctor
from fedlearn.clients.agent.identity import Identity
from fedlearn.clients.agent.options import AgentSettings
from fedlearn.clients.agent.pipe import Limits, WorkCost, WorkReply, WorkSetup
from fedlearn.clients.agent.workshop import Job, Workshop
from fedlearn.clients.device import board, notify
from fedlearn.clients.device.guest import Guest
from fedlearn.errors import RecordError, RunError, UserError
from fedlearn.exchange import exchange_pb2 as pb
from fedlearn.exchange import methods
from fedlearn.exchange.addresses import detour
from fedlearn.exchange.keys import Key, of
from fedlearn.exchange.transfer import Data, packed
from fedlearn.system import sockets
from fedlearn.system.failpoints import reach
from fedlearn.system.files import make_folder
from fedlearn.system.malloc import give_back, keep_pages

if TYPE_CHECKING:
    from fedlearn.clients.agent.releases import ReleaseDesk

# The coordinator is told at most so often what work costs: rounds may be much shorter.
FIGURES_S = 5.0

# How often an agent looks whether its certificate is to be renewed.
RENEWAL_S = 3600.0

# Frames that wait for a coordinator which does not read; work makes a few at a time.
UNREAD_FRAMES = 10_000

# Bounds of the sleep between two looks at the machine's alarms: it may set an earlier one
# meanwhile.
_LEAST_SLEEP_S = 0.05
_MOST_SLEEP_S = 1.0

_REASONS: Mapping[str, int] = {
    "lacking": pb.Failure.LACKING,
    "declined": pb.Failure.DECLINED,
    "failed": pb.Failure.FAILED,
}


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Agent:
    """See the module; `run` is all of its life."""

    # Without values here, so that a use before its time is an AttributeError.
    # Set by `run` and by the first connection.
    _state: Attendance
    _identity: Identity
    _call: Any

    def __init__(
        self, settings: AgentSettings, say: Callable[[str], None] = _print
    ) -> None:
        """Take the owner's decisions. say: takes a line for the log."""
        self.settings = settings
        self.say = say
        self._guest = Guest(settings.rules, settings.root, say)
        self._workshop = Workshop(self._guest, settings.root, self._report, self._broke)
        # None before the first connection: nobody could hear what is sent then.
        self._outbox: asyncio.Queue[tuple[pb.AgentFrame, Data]] | None = None
        # Of the run that the agent takes part in.
        self._folder = Path()
        # Why the agent ends; None: it goes on.
        self._ending: str | None = None
        # Set when the present connection, or the wait for the next one, is to end.
        self._hang_up = asyncio.Event()
        # The certificate was renewed since the channel was made, or the channel hangs.
        self._channel_is_old = False
        # Before the next connection.
        self._wait_s = 0.0
        # Minus infinity, so that the first figures are told at once.
        self._figures_told_s = float("-inf")
        # None: no releases are installed here.
        self._desk: ReleaseDesk | None = None
        # Looks at the device when the coordinator asks.
        self._doctor = Doctor(settings, self._send)
        # What ended the desk, and this agent with it.
        self._broke_by: BaseException | None = None

    async def run(self) -> str:
        """Attend until the run is over, and return the reason.

        Raises UserError where the agent may not attend, and RecordError when its disk fails.
        """
        # Payloads of megabytes come and go; glibc would give their pages back each
        # time.
        keep_pages()
        settings = self.settings
        software = f"fedlearn {fedlearn.__version__}"
        # Not seeded: agents that lost one coordinator together must not return
        # together.
        draw = random.SystemRandom().random
        installs = settings.releases is not None
        self._state = Attendance(
            settings.client,
            software,
            draw,
            settings.most_bytes,
            installs,
            settings.diagnose,
        )
        channel = self._channel()
        desk = self._open_desk()
        beat = asyncio.create_task(notify.beat())
        if settings.end_with_input:
            asyncio.get_running_loop().add_reader(0, self._input)
        try:
            while self._ending is None:
                # What asked for the last end must not end the new connection.
                self._hang_up.clear()
                if self._channel_is_old:
                    await channel.close()
                    channel = self._channel()
                    self._channel_is_old = False
                await self._attend(channel)
                await self._wait()
        finally:
            beat.cancel()
            await self._doctor.stop()
            if desk is not None:
                desk.cancel()
                await asyncio.gather(desk, return_exceptions=True)
            await self._workshop.stop()
            await channel.close()
        if self._broke_by is not None:
            raise self._broke_by
        return self._ending

    def _open_desk(self) -> asyncio.Task[None] | None:
        """Begin to install releases, where the owner wants it; raises RecordError."""
        settings = self.settings
        if settings.releases is None:
            return None
        # An agent that installs nothing loads nothing of it.
        from fedlearn.clients.agent.releases import ReleaseDesk

        self._desk = ReleaseDesk(settings.releases, self._guest.ask, self.say)
        task = asyncio.create_task(self._desk.run())
        task.add_done_callback(self._desk_ended)
        return task

    def _desk_ended(self, task: asyncio.Task[None]) -> None:
        """End with the desk: a disk that fails is no reason to attend without releases."""
        if not task.cancelled() and task.exception() is not None:
            self._broke_by = task.exception()
            self._end(str(self._broke_by))

    async def _wait(self) -> None:
        """Wait before the next connection, unless there is none."""
        if self._ending is None:
            self._hang_up.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._hang_up.wait(), self._wait_s)

    def _end(self, reason: str) -> None:
        self._ending = reason
        self._hang_up.set()

    def _input(self) -> None:
        """End when whoever started this agent has ended."""
        # What is read means nothing: only the end of the input does.
        if not os.read(0, 4096):
            asyncio.get_running_loop().remove_reader(0)
            self._end("the process that started this agent has ended")

    # The connection

    def _channel(self) -> Any:
        """Return a channel to the coordinator; raises UserError without an identity."""
        settings = self.settings
        if settings.insecure:
            return open_channel(settings.coordinator, None)
        self._identity = own_identity(settings.state, settings.coordinator)
        return open_channel(settings.coordinator, self._identity)

    async def _attend(self, channel: Any) -> None:
        """Live through one connection."""
        self._outbox = asyncio.Queue()
        self._call = methods.attend(channel)()
        self._perform(self._state.opened(time.monotonic()))
        parts = [
            asyncio.create_task(self._read()),
            asyncio.create_task(self._write()),
            asyncio.create_task(self._tick()),
            asyncio.create_task(self._renew()),
            asyncio.create_task(self._hear_hang_up()),
        ]
        # A new queue: frames for the last connection mean nothing to this one.
        try:
            # Each part runs until the connection ends, so the first end is its end.
            await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            self._report_end(parts)
        finally:
            if self._desk is not None:
                self._desk.disconnected()
            for part in parts:
                part.cancel()
            self._call.cancel()
            await asyncio.gather(*parts, return_exceptions=True)

    def _report_end(self, parts: Sequence[asyncio.Task[None]]) -> None:
        """Report why a connection ended, unless this agent ended it.

        Raises the RecordError or UserError of a part.
        """
        for part in parts:
            # A part that still runs, or was cancelled, did not end the connection.
            if not part.done() or part.cancelled():
                continue
            error = part.exception()
            if isinstance(error, RecordError | UserError):
                raise error
            if error is not None and not self._hang_up.is_set():
                reason = _reason(error) + detour(self.settings.coordinator)
                self._perform(self._state.lost(reason))
        if not self._hang_up.is_set() and self._ending is None:
            self._perform(self._state.lost("the coordinator ended the connection"))

    async def _hear_hang_up(self) -> None:
        await self._hang_up.wait()

    async def _read(self) -> None:
        while (frame := await self._call.read()) is not grpc.aio.EOF:
            if frame.WhichOneof("frame") == "task":
                # The device is read only now: most frames are heartbeats.
                self._state.decline_reason = self._guest.ask()
            self._perform(self._state.heard(frame, time.monotonic()))
            if self._desk is not None:
                self._desk.heard(frame)
            self._doctor.heard(frame)
            if frame.WhichOneof("frame") == "welcome":
                # What imports and the handshake left is a megabyte, and then it may wait.
                give_back()
        # The stream ended by its status, which says why in the server's words.
        code = await self._call.code()
        raise RunError(f"{code.name.lower()}: {await self._call.details()}")

    async def _write(self) -> None:
        assert self._outbox is not None
        while True:
            frame, data = await self._outbox.get()
            # A chunk's data stays outside of the message, so it is copied once less.
            await self._call.write(packed(frame, data) if data else frame)
            chunk = frame.chunk
            if chunk.total:
                is_last = chunk.offset + len(data) == chunk.total
                reach("agent.sent" if is_last else "agent.half-sent")

    async def _tick(self) -> None:
        while True:
            now = time.monotonic()
            sleep_s = self._state.next_alarm(now) - now
            await asyncio.sleep(min(_MOST_SLEEP_S, max(_LEAST_SLEEP_S, sleep_s)))
            self._perform(self._state.tick(time.monotonic()))

    async def _renew(self) -> None:
        """Ask for a new certificate when the old one nears its end."""
        settings = self.settings
        while True:
            if not settings.insecure and identity.due(self._identity, time.time()):
                # In a thread: openssl may take seconds on a small board, and heartbeats
                # go on.
                request = await asyncio.to_thread(
                    identity.make_key_and_csr, settings.state
                )
                self._send(pb.AgentFrame(renewal=pb.Renewal(request=request)))
            await asyncio.sleep(RENEWAL_S)

    def _send(self, frame: pb.AgentFrame, data: Data = b"") -> None:
        if self._outbox is None:
            return
        self._outbox.put_nowait((frame, data))
        # Every task is answered: a coordinator that asks and does not read takes memory.
        if self._outbox.qsize() == UNREAD_FRAMES:
            self._perform(self._state.lost("the coordinator does not read"))

    # What the machine asks for

    def _perform(self, actions: Sequence[Action]) -> None:
        """Perform the actions of the state machine.

        Raises UserError where the coordinator refuses this agent, and RecordError when the disk
        fails.
        """
        for action in actions:
            match action:
                case SendFrame():
                    self._send(action.frame, action.data)
                case Begin():
                    reach("agent.task")
                    self._workshop.begin(Job(action.key, action.task, action.payloads))
                case Discard():
                    self._discard(action.key)
                case Enter():
                    self._enter(action.welcome)
                case Note():
                    self.say(action.text)
                case Connect():
                    self._wait_s = action.after_s
                    self._channel_is_old = self._channel_is_old or action.anew
                    self._hang_up.set()
                case Leave():
                    self._leave(action)
                case Certificate():
                    self._store(action)

    def _discard(self, key: Key) -> None:
        # The work first: otherwise it could write the answer again.
        self._workshop.discard(key)
        with contextlib.suppress(OSError):
            reach("agent.before-discard")
            (self._folder / store.ANSWERS / store.answer_name(key)).unlink()
            reach("agent.after-discard")

    def _enter(self, welcome: pb.Welcome) -> None:
        """Take part in a run: forget others on the disk, and recall this one's answers."""
        settings = self.settings
        folder = settings.state / f"run-{welcome.run.hex()}"
        self.say(f"attending as client {settings.client}")
        # While there is no work this agent is silent for long, and so is its coordinator.
        for connection in sockets.connections():
            sockets.keep_alive(connection)
        # After each welcome, as the coordinator may be another process than before.
        self._tell(board.facts(settings.root))
        # One of a run knows no releases, and would take the report for a mistake.
        if self._desk is not None and welcome.releases:
            self._desk.connected(self._send)
        if not welcome.run:
            # A fleet's run has ended: the process that worked for it holds torch.
            if not self._workshop.jobs:
                self._workshop.end_process()
            return
        # The same run again, after a break: the work goes on, and its answers are known.
        if folder == self._folder:
            return
        self._folder = folder
        limits = Limits(settings.epochs, settings.steps, settings.allow)
        self._workshop.enter(
            WorkSetup(
                str(folder),
                settings.client,
                welcome.experiment,
                settings.data,
                limits,
                settings.app_rules,
            )
        )
        answers = folder / store.ANSWERS
        with _writing(folder):
            for part in (settings.state, folder, answers):
                make_folder(part)
            # Nobody will ask for work of other runs.
            for run in settings.state.glob("run-*"):
                if run != folder:
                    shutil.rmtree(run, ignore_errors=True)
        for _, task, answer in store.answers(answers):
            key = of(pb.Task.FromString(task).key)
            self._perform(self._state.recall(key, task, answer))

    def _leave(self, leave: Leave) -> None:
        if not leave.done:
            raise UserError(
                f"the coordinator at {self.settings.coordinator} refuses this agent: "
                f"{leave.reason}"
            )
        self._end(leave.reason)

    def _store(self, renewed: Certificate) -> None:
        """Store a renewed certificate; the next connection uses it."""
        self._identity = identity.store(
            self.settings.state,
            self.settings.client,
            renewed.certificate,
            self._identity.ca,
            renewed.expires,
        )
        self._channel_is_old = True
        self.say("the certificate is renewed")

    # What came of work

    def _report(self, key: Key, reply: WorkReply, blobs: list[bytes]) -> None:
        """Take the outcome of a piece of work."""
        if reply.result != "answer":
            self.say(f"round {key[0]}: {reply.result} {reply.text}".rstrip())
            reason = _REASONS[reply.result]
            self._perform(self._state.failed(key, reason, reply.text))
            return
        if reply.cost.halvings:
            self.say(
                f"round {key[0]}: memory is short; "
                f"computed 1/{2**reply.cost.halvings} of each mini-batch at a time"
            )
        reach("agent.before-send")
        self._perform(self._state.answered(key, blobs[0], time.monotonic()))
        self._tell_figures(reply.cost)

    def _broke(self, error: BaseException) -> None:
        """End because the workshop itself has failed."""
        self.say(f"the work stopped: {error}")
        # The first reason counts: a later one is a consequence of it.
        self._end(self._ending or str(error))

    def _tell(self, facts: Mapping[str, str | float]) -> None:
        """Tell the coordinator facts about this device, if there is a connection."""
        if facts and self._state.connected:
            text = json.dumps(facts, separators=(",", ":"))
            self._send(pb.AgentFrame(facts=pb.Facts(json=text)))

    def _tell_figures(self, cost: WorkCost) -> None:
        """Tell the coordinator what a piece of work took, unless it was told a moment ago."""
        now = time.monotonic()
        if now - self._figures_told_s >= FIGURES_S:
            self._figures_told_s = now
            joules = self._guest.energy.joules
            self._tell(cost.figures(joules, self._state.pace.mbps))


def _reason(error: BaseException) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name.lower()}: {error.details()}"
    return str(error) or type(error).__name__


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Raise RecordError for an OSError inside."""
    try:
        yield
    except OSError as error:
        raise RecordError(
            f"cannot write '{path}': {error.strerror or error}"
        ) from error
