"""Releases on a device: what `fedlearn.clients.installation` asks is done here.

A desk lives as long as its agent, with or without a connection: a trial ends by itself. All
that takes numpy or the runtime is a process of its own (`fedlearn.clients.device.release_work`),
and so is what serves (`fedlearn.clients.agent.serving`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fedlearn.clients.agent.fetching import ReleaseFetch
from fedlearn.clients.agent.release_settings import ReleaseSettings
from fedlearn.clients.agent.serving import ServingProcess
from fedlearn.clients.device.slots import InstallDisk
from fedlearn.clients.install_actions import (
    DropWork,
    FetchRelease,
    InspectSlot,
    InstallAction,
    ServeSlot,
    StageRelease,
    TellInstalled,
    TryRelease,
    VerifyRelease,
    WriteRecord,
)
from fedlearn.clients.install_stages import InstallStage
from fedlearn.clients.installation import Installation
from fedlearn.clients.installed import Slot, WatchTerms
from fedlearn.errors import one_line
from fedlearn.exchange import exchange_pb2 as pb
from fedlearn.exchange.release_frames import (
    WrongFrame,
    installed_frame,
    offer_of,
)
from fedlearn.exchange.releases import ReleaseId, WatchLimits

# How often time passes for the machine, and how often the owner's rules are asked.
TICK_S = 0.5
CONSENT_S = 10.0

# Seconds that a piece of work may take: reading and hashing of a large model takes minutes.
WORK_S = 900.0

# Requests below which a trial's figures prove nothing.
LEAST_REQUESTS = 20

# Tries of work that a signal ends.
TRIES = 2


class ReleaseDesk:
    """See the module; `run` is all of its life."""

    def __init__(
        self,
        settings: ReleaseSettings,
        consent: Callable[[], str | None],
        say: Callable[[str], None],
    ) -> None:
        """Take the owner's decisions. consent: why nothing may be installed now, or None.

        Raises RecordError for a folder that cannot be used.
        """
        self.settings = settings
        self.say = say
        self._consent = consent
        self._disk = InstallDisk(settings.folder)
        self._disk.sweep()
        self.machine = Installation(self._disk.read())
        self._serving = ServingProcess(
            settings.folder, settings.serve, say, settings.shadow
        )
        # To the coordinator, while there is a connection to one that takes reports.
        self._send: Callable[[pb.AgentFrame], None] | None = None
        self._fetch = ReleaseFetch(self._disk, settings.most_bytes, self._process, say)
        # What is done for a release; one piece at a time.
        self._work: asyncio.Task[None] | None = None
        self._asked_s = float("-inf")
        # Why this desk cannot go on.
        self.trouble: BaseException | None = None

    async def run(self) -> None:
        """Install, watch and serve, for ever. Raises RecordError when the disk fails."""
        record = self.machine.record
        intact = set()
        for slot, content in record.contents.items():
            if await self._is_intact(slot, content.release):
                intact.add(slot)
        try:
            self._perform(self.machine.booted(intact, time.monotonic()))
            while True:
                await self._pass_time()
                await asyncio.sleep(TICK_S)
        finally:
            await self._stop()

    async def _is_intact(self, slot: Slot, release: ReleaseId) -> bool:
        """Tell whether a slot holds its release.

        A look that failed says nothing of the slot, and must not cost the device its model.
        """
        while True:
            reply = await self._process("inspect", release, slot=slot)
            objection = reply["objection"]
            if "failed" not in reply:
                # Nothing may cost a device its model without a word.
                if objection is not None:
                    self.say(f"slot {slot} does not hold {release}: {objection}")
                return objection is None
            self.say(f"slot {slot} cannot be looked at yet: {objection}")
            await asyncio.sleep(CONSENT_S)

    async def _pass_time(self) -> None:
        now = time.monotonic()
        if self.trouble is not None:
            raise self.trouble
        if now - self._asked_s >= CONSENT_S:
            self._asked_s = now
            self._perform(self.machine.consents(self._consent(), now))
        for event in await self._serving.look():
            match event.kind:
                case "ready":
                    assert event.slot is not None
                    self._perform(self.machine.serving(event.slot, now))
                case "figures":
                    self._perform(self.machine.observed(event.figures, now))
                case "ended":
                    self._perform(self.machine.ended(event.reason, now))
        self._perform(self.machine.tick(now))

    async def _stop(self) -> None:
        if self._work is not None:
            self._work.cancel()
        # A trial goes on where it stands when the agent is back.
        for action in self.machine.stopping(time.monotonic()):
            if isinstance(action, WriteRecord):
                with contextlib.suppress(OSError):
                    self._disk.write(action.record)
        await self._serving.stop()

    # The coordinator

    def connected(self, send: Callable[[pb.AgentFrame], None]) -> None:
        """Take a connection to a coordinator that takes reports."""
        self._send = send
        self._fetch.connected(send)
        self._perform(self.machine.connected(time.monotonic()))

    def disconnected(self) -> None:
        """Take the end of the connection; all goes on without it."""
        self._send = None
        self._fetch.disconnected()

    def heard(self, frame: pb.CoordinatorFrame) -> None:
        """Take a frame that is of releases; others change nothing."""
        match frame.WhichOneof("frame"):
            case "wanted":
                self._want(frame.wanted)
            case "chunk":
                self._fetch.chunk(frame.chunk)

    def _want(self, message: pb.Wanted) -> None:
        try:
            offer = offer_of(message)
        except WrongFrame as error:
            self.say(f"the coordinator wants a release that is none: {error}")
            return
        self._fetch.want(offer)
        self._perform(self.machine.want(offer.wanted, time.monotonic()))

    # What the machine asks

    def _perform(self, actions: Sequence[InstallAction]) -> None:
        for action in actions:
            match action:
                case TellInstalled(report):
                    if self._send is not None:
                        self._send(installed_frame(report))
                case WriteRecord():
                    self._write(action)
                case ServeSlot(slot, release):
                    shadow = self.machine.record.shadow_of(slot)
                    self._serving.want(slot, release, shadow)
                case DropWork():
                    self._drop()
                case _:
                    self._begin(action)

    def _write(self, action: WriteRecord) -> None:
        now = time.monotonic()
        try:
            self._disk.write(action.record)
        except OSError as error:
            self.say(f"the record of releases is not written: {one_line(error)}")
            self._perform(self.machine.unwritten(one_line(error), now))
            return
        self._note(action)
        self._perform(self.machine.written(now))

    def _note(self, action: WriteRecord) -> None:
        """Say what a new record means."""
        before = self.machine.record
        record = action.record
        if record.failure is not None and record.failure != before.failure:
            failure = record.failure
            self.say(f"{failure.release} is not kept: {failure.reason}")
        elif record.trial is not None and before.trial is None:
            self.say(f"{record.serving} serves on trial")
        elif record.committed != before.committed:
            self.say(f"{record.committed} is committed")

    def _drop(self) -> None:
        if self._work is not None:
            self._work.cancel()
            self._work = None
        self._fetch.drop()

    def _begin(self, action: InstallAction) -> None:
        """Begin a piece of work; the last one has ended, or was dropped."""
        self._drop()
        self._work = asyncio.create_task(self._guarded(action))

    async def _guarded(self, action: InstallAction) -> None:
        try:
            await self._do(action)
        except asyncio.CancelledError:
            raise
        # Of a bug of ours: the agent ends with it, and does not wait for ever.
        except BaseException as error:
            self.trouble = error

    async def _do(self, action: InstallAction) -> None:
        match action:
            case FetchRelease(release):
                objection = await self._fetch.run(release)
                self._worked(InstallStage.FETCHING, release, objection)
            case VerifyRelease(release, floor):
                owner = {
                    "floor": floor,
                    "names": list(self.settings.names),
                    "keys": list(self.settings.keys),
                    "device": self.settings.device,
                    "functions": self.settings.functions,
                }
                reply = await self._process("verify", release, **owner)
                self._worked(InstallStage.VERIFYING, release, reply["objection"])
            case StageRelease(release, slot):
                reply = await self._process("stage", release, slot=slot)
                self._worked(InstallStage.STAGING, release, reply["objection"])
            case InspectSlot(release, slot):
                reply = await self._process("inspect", release, slot=slot)
                self._worked(InstallStage.INSPECTING, release, reply["objection"])
            case TryRelease(release, slot):
                probe = self.settings.probe
                reply = await self._process(
                    "try",
                    release,
                    slot=slot,
                    most_megabytes=self.settings.most_megabytes,
                    probe=None if probe is None else str(probe),
                    least_accuracy=self.settings.least_accuracy,
                )
                objection = reply["objection"]
                terms = self._terms(reply) if objection is None else WatchTerms()
                now = time.monotonic()
                self._perform(self.machine.tried(release, objection, terms, now))

    def _worked(
        self, stage: InstallStage, release: ReleaseId, objection: str | None
    ) -> None:
        now = time.monotonic()
        self._perform(self.machine.worked(stage, release, objection, now))

    def _terms(self, reply: Mapping[str, Any]) -> WatchTerms:
        """Return how long a trial lasts, as the owner says, and its limits, as is signed."""
        limits: dict[str, Any] = {
            name: float("inf") if bound is None else bound
            for name, bound in reply["limits"].items()
        }
        settings = self.settings
        # The owner's limit holds for packages that sign none.
        limits["disagreement"] = min(limits["disagreement"], settings.disagreement)
        return WatchTerms(
            settings.watch_s,
            settings.ready_s,
            settings.starts,
            WatchLimits(LEAST_REQUESTS, **limits),
            reply["floor"],
        )

    # Processes

    async def _process(
        self, step: str, release: ReleaseId, **more: Any
    ) -> dict[str, Any]:
        """Have a process do a piece of work, and return its reply.

        One that a signal ended is no word against the release: a board short of memory kills
        whatever is there. It is tried once more.
        """
        order = {
            "step": step,
            "folder": str(self.settings.folder),
            "name": release.name,
            "counter": release.counter,
            "digest": release.digest,
            **more,
        }
        for _ in range(TRIES):
            code, reply = await self._reply(step, json.dumps(order).encode())
            if code >= 0:
                return reply
            self.say(f"the {step} of {release} was ended by signal {-code}")
        return reply

    async def _reply(self, step: str, order: bytes) -> tuple[int, dict[str, Any]]:
        """Return the exit code of one process, and its reply."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "fedlearn.clients.device.release_work",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            output, _ = await asyncio.wait_for(process.communicate(order), WORK_S)
            code = process.returncode or 0
            return code, json.loads(output)
        except asyncio.TimeoutError:
            text = f"its {step} took more than {WORK_S:g} s"
            return 0, {"objection": text, "failed": True}
        except ValueError:
            text = f"its {step} ended with code {code}"
            return code, {"objection": text, "failed": True}
        finally:
            # Also where this task is cancelled: two must not write one slot.
            if process.returncode is None:
                process.kill()
                await process.wait()
