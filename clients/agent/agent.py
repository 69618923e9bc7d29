"""The long-lived agent of one client: a stream to the coordinator, a disk, and a process that works.

It does what `fedlearn.clients.agent.attendance` says, and imports neither torch nor numpy: an agent that waits for its first task
holds a few tens of megabytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import time
from asyncio.subprocess import PIPE
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc

import fedlearn
from fedlearn.clients.agent import attendance, identity, pipe, store
from fedlearn.clients.agent.attendance import Attendance
from fedlearn.clients.agent.pipe import (
    Limits,
    WorkCost,
    WorkReply,
    WorkRequest,
    WorkSetup,
)
from fedlearn.clients.device import notify
from fedlearn.clients.device import readings as device
from fedlearn.clients.device.guest import Guest
from fedlearn.clients.device.rules import NO_RULES, Rules
from fedlearn.errors import RecordError, RunError, UserError
from fedlearn.exchange import CHANNEL, methods
from fedlearn.exchange import exchange_pb2 as pb
from fedlearn.exchange.keys import Key, of
from fedlearn.exchange.transfer import Data, packed
from fedlearn.system.failpoints import reach
from fedlearn.system.malloc import keep_pages

OPTIONS = (
    *CHANNEL,
    ("grpc.initial_reconnect_backoff_ms", 100),
    (
        "grpc.min_reconnect_backoff_ms",
        10_000,
    ),  # how long an attempt may take, whatever its name says: slow links need it, and herds
    ("grpc.max_reconnect_backoff_ms", 700),
    ("grpc.use_local_subchannel_pool", 1),  # a new channel is a new socket
)
DEATHS = 3
"""Processes that may die over a piece of work before it counts as failed: one may be killed for another's use of memory."""

FIGURES_S = 5.0
"""How often the coordinator is told what work takes."""

RENEWAL_S = 3600.0
"""How often an agent looks whether its certificate is to be renewed."""


@dataclass(frozen=True)
class AgentSettings:
    """What the device's owner decides."""

    coordinator: str  # HOST:PORT
    client: int
    state: Path
    data: str = "auto"
    insecure: bool = False
    epochs: int = 0  # most of a plan that are done; 0: no limit
    steps: int = 0
    allow: tuple[str, ...] = ()
    end_with_input: bool = False
    most_bytes: int = attendance.PAYLOAD_BYTES  # of a task's payloads
    rules: Rules = NO_RULES
    root: Path = device.ROOT  # where the device is read


@dataclass
class _Job:
    key: Key
    task: pb.Task
    payloads: tuple[bytes, ...]
    deaths: int = 0  # of processes that did it


@dataclass
class Agent:
    """See the module; `run` is all of its life."""

    settings: AgentSettings
    say: Any = lambda text: print(text, file=sys.stderr, flush=True)
    _jobs: deque[_Job] = field(default_factory=deque)
    _process: asyncio.subprocess.Process | None = None
    _worker: asyncio.Task[None] | None = None
    _call: Any = None
    _outbox: asyncio.Queue[tuple[pb.AgentFrame, Data]] | None = None
    _experiment: str = ""
    _folder: Path = Path()
    _ending: str | None = None
    _anew: bool = False  # the certificate is renewed since the channel was made, or the channel hangs
    _again: asyncio.Event = field(default_factory=asyncio.Event)
    _wait_s: float = 0.0
    _halvings: int = 0  # of mini-batches, that this device is known to need
    _kills: int | None = (
        None  # of processes for want of memory, when the one that works began
    )
    _figures_told: float = float("-inf")

    def __post_init__(self) -> None:
        """Read the owner's rules."""
        self._guest = Guest(self.settings.rules, self.settings.root, self.say)

    async def run(self) -> str:
        """Attend until the run is over, and return the reason.

        Raises UserError where the agent may not attend, and RecordError when its disk fails.
        """
        keep_pages()
        settings = self.settings
        self._state = Attendance(
            settings.client,
            f"fedlearn {fedlearn.__version__}",
            random.SystemRandom().random,
            settings.most_bytes,
        )
        channel = self._channel()
        beat = asyncio.create_task(_beat())
        if settings.end_with_input:
            asyncio.get_running_loop().add_reader(0, self._input)
        try:
            while self._ending is None:
                self._again.clear()
                if self._anew:
                    await channel.close()
                    channel, self._anew = self._channel(), False
                await self._attend(channel)
                if self._ending is None:
                    self._again.clear()
                    with contextlib.suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(self._again.wait(), self._wait_s)
        finally:
            beat.cancel()
            await self._stop_work()
            await channel.close()
        return self._ending

    def _input(self) -> None:
        """End when whoever started this has ended."""
        if not os.read(0, 4096):
            asyncio.get_running_loop().remove_reader(0)
            self._ending = "the process that started this agent has ended"
            self._again.set()

    def _channel(self) -> Any:
        settings = self.settings
        if settings.insecure:
            return grpc.aio.insecure_channel(settings.coordinator, OPTIONS)
        found = identity.read_identity(settings.state)
        if found is None:
            raise UserError(
                f"there is no identity in '{settings.state}'; get a token from the coordinator (fedlearn token --client ID), then: "
                f"fedlearn enroll --coordinator {settings.coordinator} --token TOKEN --state {settings.state}"
            )
        self._identity = found
        credentials = grpc.ssl_channel_credentials(
            found.ca, found.key, found.certificate
        )
        return grpc.aio.secure_channel(settings.coordinator, credentials, OPTIONS)

    async def _attend(self, channel: Any) -> None:
        """Live through one connection."""
        self._outbox = asyncio.Queue()
        self._call = methods.attend(channel)()
        self._perform(self._state.opened(time.monotonic()))
        parts = [
            asyncio.create_task(part)
            for part in (
                self._read(),
                self._write(),
                self._tick(),
                self._again.wait(),
                self._renew(),
            )
        ]
        try:
            await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            for part in parts:
                if part.done() and not part.cancelled() and (error := part.exception()):
                    if isinstance(error, RecordError | UserError):
                        raise error
                    if not self._again.is_set():
                        self._perform(self._state.lost(_reason(error)))
            if not self._again.is_set() and self._ending is None:
                self._perform(self._state.lost("the coordinator ended the connection"))
        finally:
            for part in parts:
                part.cancel()
            self._call.cancel()
            await asyncio.gather(*parts, return_exceptions=True)

    async def _read(self) -> None:
        while (frame := await self._call.read()) is not grpc.aio.EOF:
            if frame.WhichOneof("frame") == "task":
                self._state.decline_reason = self._guest.ask()
            self._perform(self._state.heard(frame, time.monotonic()))
        code = await self._call.code()
        raise RunError(f"{code.name.lower()}: {await self._call.details()}")

    async def _write(self) -> None:
        assert self._outbox is not None
        while True:
            frame, data = await self._outbox.get()
            await self._call.write(packed(frame, data) if data else frame)
            if (chunk := frame.chunk).total:
                reach(
                    "agent.sent"
                    if chunk.offset + len(data) == chunk.total
                    else "agent.half-sent"
                )

    async def _tick(self) -> None:
        while True:
            now = time.monotonic()
            await asyncio.sleep(min(1.0, max(0.05, self._state.next_alarm(now) - now)))
            self._perform(self._state.tick(time.monotonic()))

    async def _renew(self) -> None:
        """Ask for a new certificate when the old one nears its end."""
        while True:
            if not self.settings.insecure and identity.due(self._identity, time.time()):
                request = await asyncio.to_thread(
                    identity.make_key_and_csr, self.settings.state
                )
                self._send(pb.AgentFrame(renewal=pb.Renewal(request=request)))
            await asyncio.sleep(RENEWAL_S)

    def _send(self, frame: pb.AgentFrame, data: Data = b"") -> None:
        if self._outbox is not None:
            self._outbox.put_nowait((frame, data))

    def _tell(self, facts: Mapping[str, str | float]) -> None:
        """Tell the coordinator of this device, if it is there."""
        if facts and self._state.connected:
            self._send(
                pb.AgentFrame(
                    facts=pb.Facts(json=json.dumps(facts, separators=(",", ":")))
                )
            )

    def _tell_figures(self, cost: WorkCost) -> None:
        """Tell the coordinator what a piece of work took; not each time where rounds are short."""
        if time.monotonic() - self._figures_told >= FIGURES_S:
            self._figures_told = time.monotonic()
            self._tell(_figures(cost, self._guest.energy.joules, self._state.pace.mbps))

    def _perform(self, actions: Sequence[attendance.Action]) -> None:
        """Do what the state machine asks."""
        for action in actions:
            if isinstance(action, attendance.SendFrame):
                self._send(action.frame, action.data)
            elif isinstance(action, attendance.Begin):
                reach("agent.task")
                self._jobs.append(_Job(action.key, action.task, action.payloads))
                self._start()
            elif isinstance(action, attendance.Discard):
                self._discard(action.key)
            elif isinstance(action, attendance.Enter):
                self._enter(action.welcome)
            elif isinstance(action, attendance.Note):
                self.say(action.text)
            elif isinstance(action, attendance.Connect):
                self._wait_s, self._anew = action.after_s, self._anew or action.anew
                self._again.set()
            elif isinstance(action, attendance.Leave):
                if not action.done:
                    raise UserError(
                        f"the coordinator at {self.settings.coordinator} refuses this agent: {action.reason}"
                    )
                self._ending = action.reason
                self._again.set()
            else:
                self._identity = identity.store(
                    self.settings.state,
                    self.settings.client,
                    action.certificate,
                    self._identity.ca,
                    action.expires,
                )
                self._anew = True
                self.say("the certificate is renewed")

    def _enter(self, welcome: pb.Welcome) -> None:
        folder = self.settings.state / f"run-{welcome.run.hex()}"
        self.say(f"attending as client {self.settings.client}")
        self._tell(device.facts(self.settings.root))
        if folder == self._folder:
            return
        self._folder, self._experiment = folder, welcome.experiment
        self._end_process()  # it knows another run
        with _writing(folder):
            (folder / "answers").mkdir(parents=True, exist_ok=True)
            for other in self.settings.state.glob("run-*"):
                if other != folder:
                    shutil.rmtree(other, ignore_errors=True)
        for name, task, answer in store.answers(folder / "answers"):
            del name
            self._perform(
                self._state.recall(of(pb.Task.FromString(task).key), task, answer)
            )

    def _discard(self, key: Key) -> None:
        if self._jobs and self._jobs[0].key == key:
            self._end_process()  # in the middle of it; the next task starts another
        with contextlib.suppress(OSError):
            reach("agent.before-discard")
            (self._folder / "answers" / _name(key)).unlink()
            reach("agent.after-discard")
        self._jobs = deque(job for job in self._jobs if job.key != key)

    def _end_process(self) -> None:
        """Kill the process that works, and forget it at once: it may have answered already, and must not be given the next task."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()

    def _start(self) -> None:
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
            self._worker.add_done_callback(self._worked)

    def _worked(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()):
            self.say(f"the work stopped: {error}")
            self._ending = self._ending or str(error)
            self._again.set()

    async def _work(self) -> None:
        """Do the jobs one after another."""
        while self._jobs:
            job = self._jobs[0]
            try:
                reply, blobs = await self._done(job)
            except (
                asyncio.IncompleteReadError,
                OSError,
            ):  # the process died, or was killed for a job that is not wanted
                reply, blobs = await self._died(), []
                job.deaths += 1
                if job.deaths < DEATHS:
                    continue
            wanted = bool(self._jobs) and self._jobs[0] is job
            if not wanted:
                continue
            self._jobs.popleft()
            result = reply.result
            if result == "answer":
                cost = reply.cost
                if cost.halvings:
                    self.say(
                        f"round {job.key[0]}: memory is short; "
                        f"computed 1/{2**cost.halvings} of each mini-batch at a time"
                    )
                reach("agent.before-send")
                self._perform(self._state.answered(job.key, blobs[0], time.monotonic()))
                self._tell_figures(cost)
            else:
                reasons = {
                    "lacking": pb.Failure.LACKING,
                    "declined": pb.Failure.DECLINED,
                }
                self.say(f"round {job.key[0]}: {result} {reply.text}".rstrip())
                self._perform(
                    self._state.failed(
                        job.key,
                        reasons.get(result, pb.Failure.FAILED),
                        reply.text,
                    )
                )

    async def _done(self, job: _Job) -> tuple[WorkReply, list[bytes]]:
        """Have the process do a job under the owner's rules, and return what it says, or why it was ended."""
        process = self._process or await self._spawn()
        if not self._guest.watches:
            return await self._ask(process, job)
        work, watch = (
            asyncio.create_task(self._ask(process, job)),
            asyncio.create_task(self._guest.watch(process)),
        )
        try:
            await asyncio.wait((work, watch), return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            if self._process is process:
                self._end_process()
            return WorkReply("declined", watch.result()), []
        finally:
            for part in (work, watch):
                part.cancel()
            await asyncio.gather(work, watch, return_exceptions=True)

    async def _ask(
        self, process: asyncio.subprocess.Process, job: _Job
    ) -> tuple[WorkReply, list[bytes]]:
        assert process.stdin is not None and process.stdout is not None
        task = job.task.SerializeToString(deterministic=True)
        request = WorkRequest(_name(job.key), self._halvings)
        for part in pipe.pack(request.to_dict(), [task, *job.payloads]):
            process.stdin.write(part)
        await process.stdin.drain()
        head, blobs = await pipe.receive(process.stdout)
        return WorkReply.from_dict(head), blobs

    async def _spawn(self) -> asyncio.subprocess.Process:
        settings = self.settings
        self._kills = device.oom_kills(settings.root)
        command = [sys.executable, "-m", "fedlearn.clients.agent.work"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        made = self._process = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, env=environment
        )
        assert made.stdin is not None
        setup = WorkSetup(
            str(self._folder),
            settings.client,
            self._experiment,
            settings.data,
            Limits(settings.epochs, settings.steps, settings.allow),
        )
        for part in pipe.pack(setup.to_dict()):
            made.stdin.write(part)
        return made

    async def _died(self) -> WorkReply:
        process, self._process = self._process, None
        code = await process.wait() if process else 0
        killed = code == -signal.SIGKILL
        if killed and device.oom_kills(self.settings.root) != self._kills:
            # Where memory is promised freely, this is how it runs out.
            self._halvings += 1
            return WorkReply("declined", "memory: the kernel ended the work")
        hint = (
            "out of memory?"
            if code == -signal.SIGKILL
            else "the agent's log says why; fedlearn doctor looks for it"
        )
        return WorkReply(
            "failed", f"the working process ended with code {code} ({hint})"
        )

    async def _stop_work(self) -> None:
        if self._worker:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()


async def _beat() -> None:
    """Tell systemd, where it waits for that, that this agent lives."""
    notify.tell(READY=1)
    while (pause_s := notify.watchdog_s()) is not None:
        notify.tell(WATCHDOG=1)
        await asyncio.sleep(pause_s)


def _name(key: Key) -> str:
    """Return the file name of a piece of work; its kind is the coordinator's word, and must not lead out of the folder."""
    return f"{key[0]:08d}-{quote(key[1], safe='')}-{key[2]}"


def _figures(
    cost: WorkCost, joules: float | None, up_mbps: float
) -> dict[str, str | float]:
    """Return what a piece of training told of the device."""
    found: dict[str, str | float] = {}
    if cost.steps:
        found["step_s"] = round(cost.train_s / cost.steps, 6)
        if joules is not None:
            found["joules"] = round(joules, 2)
    if up_mbps:
        found["up_mbps"] = round(up_mbps, 2)
    return found


def _reason(error: BaseException) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name.lower()}: {error.details()}"
    return str(error) or type(error).__name__


@contextlib.contextmanager
def _writing(path: Path) -> Any:
    try:
        yield
    except OSError as error:
        raise RecordError(
            f"cannot write '{path}': {error.strerror or error}"
        ) from error
