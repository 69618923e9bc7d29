"""The pieces of work that an agent has to do, and the process that does them one after another.

The process is `fedlearn.clients.agent.work`, or `fedlearn.apps.device` for a Flower app. It
starts with the first piece of work, and lives on for the next ones. It is killed for work that
is no longer wanted, and another one starts with the next piece.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import PIPE
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fedlearn.clients.agent import pipe, store
from fedlearn.clients.agent.pipe import WorkReply, WorkRequest, WorkSetup
from fedlearn.clients.device import readings
from fedlearn.clients.device.guest import Guest
from fedlearn.exchange import exchange_pb2 as pb
from fedlearn.exchange.keys import Key

# Processes that may die over a piece of work before it counts as failed: one may be killed
# because another program used too much memory.
MAX_DEATHS = 3


@dataclass
class Job:
    """A piece of work to do; deaths: of processes that did it."""

    key: Key
    task: pb.Task
    payloads: tuple[bytes, ...]
    deaths: int = 0


# The programs that work.
_MODULE = "fedlearn.clients.agent.work"
_APP_MODULE = "fedlearn.apps.device"


@dataclass(frozen=True)
class _Group:
    """A process and all below it; leader: its number."""

    leader: int

    def send_signal(self, number: int) -> None:
        """Send them a signal; raises ProcessLookupError when they have ended."""
        os.killpg(self.leader, number)

    def kill(self) -> None:
        """End them; raises ProcessLookupError when they have ended."""
        self.send_signal(signal.SIGKILL)


# A reply, and the answer's bytes, if it has an answer.
Outcome = tuple[WorkReply, list[bytes]]


class Workshop:
    """See the module."""

    def __init__(
        self,
        guest: Guest,
        root: Path,
        report: Callable[[Key, WorkReply, list[bytes]], None],
        fail: Callable[[BaseException], None],
    ) -> None:
        """Take the owner's rules.

        root: where the device is read. report: takes the outcome of each piece of work. fail:
        takes an error of the workshop itself.
        """
        self.guest = guest
        self.root = root
        self.report = report
        self.fail = fail
        self.setup: WorkSetup | None = None
        self.jobs: deque[Job] = deque()
        self.process: asyncio.subprocess.Process | None = None
        # Whether it leads a group of processes.
        self._leads = False
        self._running: asyncio.Task[None] | None = None
        # Of mini-batches, known to be needed on this device.
        self._halvings = 0
        # Processes that the kernel had killed for want of memory when the present one started.
        self._oom_kills: int | None = None

    def enter(self, setup: WorkSetup) -> None:
        """Take the run that work belongs to from now on."""
        self.setup = setup
        # The present process knows another run.
        # It has built the model and the data of that run.
        self.end_process()

    def begin(self, job: Job) -> None:
        """Do a piece of work, after those that wait."""
        self.jobs.append(job)
        self._start()

    def discard(self, key: Key) -> None:
        """Forget a piece of work; a process in the middle of it is killed."""
        if self.jobs and self.jobs[0].key == key:
            self.end_process()
        self.jobs = deque(job for job in self.jobs if job.key != key)

    def end_process(self) -> None:
        """Kill the process, and forget it at once.

        It may have answered already, and the next piece of work would end with it.
        """
        process = self.process
        self.process = None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._group(process).kill()

    async def stop(self) -> None:
        """Stop all work, and wait for the end of the process."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        process = self.process
        if process is not None:
            self.end_process()
            # Waited for: until it has ended, it holds the lock of the run's folder.
            await process.wait()

    def _start(self) -> None:
        # One process at a time, so a board holds one model and one step in memory.
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._work())
            self._running.add_done_callback(self._stopped)

    def _stopped(self, running: asyncio.Task[None]) -> None:
        if not running.cancelled() and (error := running.exception()):
            self.fail(error)

    async def _work(self) -> None:
        """Do the jobs one after another."""
        while self.jobs:
            job = self.jobs[0]
            try:
                reply, blobs = await self._do(job)
            # The process died, or was killed for a job that is no longer wanted.
            except (asyncio.IncompleteReadError, OSError):
                reply = await self._died()
                blobs = []
                job.deaths += 1
                if job.deaths < MAX_DEATHS:
                    continue
            # The job may have been discarded meanwhile, and nobody waits for its reply.
            if self.jobs and self.jobs[0] is job:
                self.jobs.popleft()
                self.report(job.key, reply, blobs)

    async def _do(self, job: Job) -> Outcome:
        """Have the process do a job under the owner's rules; the rules may end it."""
        process = self.process or await self._spawn()
        # Without rules or a power sensor there is nothing to see, and no timer is
        # needed.
        if not self.guest.watches:
            return await self._ask(process, job)
        work = asyncio.create_task(self._ask(process, job))
        watch = asyncio.create_task(self.guest.watch(self._group(process)))
        try:
            await asyncio.wait((work, watch), return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            # A discard may have ended it already, and another one runs then.
            if self.process is process:
                self.end_process()
            return WorkReply("declined", watch.result()), []
        finally:
            work.cancel()
            watch.cancel()
            await asyncio.gather(work, watch, return_exceptions=True)

    async def _ask(self, process: asyncio.subprocess.Process, job: Job) -> Outcome:
        """Send a job to the process, and wait for its reply.

        Raises asyncio.IncompleteReadError or OSError when the process has ended.
        """
        assert process.stdin is not None and process.stdout is not None
        task = job.task.SerializeToString(deterministic=True)
        request = WorkRequest(store.answer_name(job.key), self._halvings)
        # Deterministic, as the answer's file holds these bytes to be compared with.
        for part in pipe.pack(request.to_dict(), [task, *job.payloads]):
            process.stdin.write(part)
        await process.stdin.drain()
        head, blobs = await pipe.receive(process.stdout)
        return WorkReply.from_dict(head), blobs

    async def _spawn(self) -> asyncio.subprocess.Process:
        """Start a process, and tell it what to build."""
        assert self.setup is not None
        # A rise by the time the process dies means that memory ran out.
        self._oom_kills = readings.oom_kills(self.root)
        process = await asyncio.create_subprocess_exec(
            *_python(),
            "-m",
            # By name: what runs apps stands above all that an agent imports.
            _APP_MODULE if self.setup.is_app else _MODULE,
            stdin=PIPE,
            stdout=PIPE,
            # A second thread would change low bits, and take a core from the owner's
            # own work.
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            # An app's code runs in processes below this one.
            start_new_session=self.setup.is_app,
        )
        self.process = process
        self._leads = self.setup.is_app
        assert process.stdin is not None
        for part in pipe.pack(self.setup.to_dict()):
            process.stdin.write(part)
        return process

    def _group(
        self, process: asyncio.subprocess.Process
    ) -> asyncio.subprocess.Process | _Group:
        """Return what a signal has to reach: the process, or it and those below it."""
        return _Group(process.pid) if self._leads else process

    async def _died(self) -> WorkReply:
        """Forget a process that ended in the middle of its work, and return why it did."""
        process = self.process
        self.process = None
        code = await process.wait() if process else 0
        # SIGKILL from outside is either a person's or the kernel's; the count tells
        # which.
        if code != -signal.SIGKILL:
            hint = "the agent's log says why; fedlearn doctor looks for it"
        elif readings.oom_kills(self.root) == self._oom_kills:
            hint = "out of memory?"
        else:
            # Where the system promises more memory than there is, it runs out by a kill and not
            # by an error.
            self._halvings += 1
            return WorkReply("declined", "memory: the kernel ended the work")
        return WorkReply(
            "failed", f"the working process ended with code {code} ({hint})"
        )


def _python() -> list[str]:
    """Return the command of a Python that looks for modules where this one does.

    Isolated as the service is: its working directory holds what the coordinator sent.
    """
    command = [sys.executable]
    if sys.flags.isolated:
        command.append("-I")
    if sys.dont_write_bytecode:
        command.append("-B")
    return command
