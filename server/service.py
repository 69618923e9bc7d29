"""The coordinator's network side: gRPC streams, the journal and a clock around `Rounds`.

It lives in a thread with an event loop of its own; the run's thread asks for work and takes
what comes of it. An answer is acknowledged when the journal has it on disk, and not before.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from functools import partial

import grpc
from google.protobuf.message import DecodeError

from fedlearn.errors import FedlearnError, RecordError, RunError
from fedlearn.exchange import exchange_pb2 as pb
from fedlearn.exchange.keys import Key
from fedlearn.exchange.methods import AttendContext
from fedlearn.server import frames, streams
from fedlearn.server.actions import (
    Action,
    DeviceFacts,
    DropSession,
    SendToAgent,
    StoreAnswer,
)
from fedlearn.server.descriptors import admission_for
from fedlearn.server.figures import ExchangeFigures
from fedlearn.server.gate import Caller, CertificateGate
from fedlearn.server.journal import Journal
from fedlearn.server.listening import Address, Listeners
from fedlearn.server.looping import LoopThread
from fedlearn.server.observe import Log
from fedlearn.server.renewals import Renewals
from fedlearn.server.rounds import Rounds
from fedlearn.server.strangers import Strangers, peer_of
from fedlearn.server.streams import AgentStream, AgentStreams
from fedlearn.server.witness import Witness
from fedlearn.server.work import ModelMissing, WorkOrder, WorkResult, journal_key
from fedlearn.system.failpoints import reach
from fedlearn.system.malloc import keep_pages

# How often the list of revoked certificates is looked at.
POLL_S = 0.5

# How long the authority may be unreadable. Nobody is let in meanwhile, so a run that waited on
# would wait for ever.
UNREADABLE_S = 30.0

# Facts of a device that are kept.
FACTS = 64

# How long the thread may take to tell its figures.
FIGURES_S = 5.0

# When agents come back to a coordinator that restarts: spread over a few seconds.
RETURN_S = (0.5, 3.0)

# How long `next` waits at a time: without a timeout Ctrl-C would wait for an answer.
NEXT_S = 0.5


class Service:
    """See the module; implements `fedlearn.server.work.WorkService`."""

    def __init__(
        self, rounds: Rounds, journal: Journal, address: Address, log: Log | None = None
    ) -> None:
        """Take the parts."""
        self.rounds = rounds
        self.journal = journal
        self.address = address
        self.log = log or Log(None, "nothing")
        # client → what its agent says of its device.
        self.devices: dict[int, dict[str, str | float]] = {}
        # Why the journal takes no more answers, or nobody can be let in.
        self.trouble: str | None = None
        self._failure: FedlearnError | None = None
        # Without a bound: what comes is bounded by the work that was asked for.
        self.events: queue.Queue[WorkResult | ModelMissing | FedlearnError] = (
            queue.Queue()
        )
        self._witness = Witness(self.log, rounds)
        self._listeners = Listeners(address)
        # Set by `_open`, in the service's thread.
        self._gate: CertificateGate
        # None without TLS: there are no certificates.
        self._renewals: Renewals | None = None
        self._streams = AgentStreams()
        self._session_count = 0
        # Rings when `Rounds.tick` is due.
        self._alarm: asyncio.TimerHandle | None = None
        self._thread = LoopThread("exchange")
        self._loop = self._thread.loop

    @property
    def port(self) -> int:
        """Return the port at which agents attend; 0 before `start`."""
        return self._listeners.port

    @property
    def enroll_port(self) -> int:
        """Return the port at which agents enroll; 0 without TLS."""
        return self._listeners.enroll_port

    # From the run's thread

    def start(self) -> None:
        """Listen; raises RunError for no address, UserError for a folder without keys."""
        keep_pages()
        self._thread.start()
        self._thread.call(self._open()).result()

    def ask(
        self, orders: Sequence[WorkOrder], deadline_s: float, enough: int | None
    ) -> None:
        """Open a batch; its answers come by `next`."""
        self._soon(
            lambda: self.rounds.ask(orders, time.monotonic(), deadline_s, enough)
        )

    def repair(
        self, client: int, key: Key, task: pb.Task, payloads: tuple[bytes, ...]
    ) -> None:
        """Answer `ModelMissing`."""
        self._soon(
            lambda: self.rounds.repair(client, key, task, payloads, time.monotonic())
        )

    def refuse(self, client: int, key: Key, reason: str) -> None:
        """Tell a client that its answer is not used."""
        self._soon(partial(self._refuse, client, key, reason))

    def recall(self, client: int, key: Key, data: bytes) -> None:
        """Note an answer that the journal holds."""
        self._soon(partial(self.rounds.recall, client, key, data))

    def forget(self, before: int) -> None:
        """Forget the answers of earlier rounds."""
        self._soon(partial(self._forget, before))

    def next(self) -> WorkResult | ModelMissing:
        """Return what comes next.

        Raises RecordError when the journal cannot be written, RunError when the exchange
        fails.
        """
        while True:
            try:
                event = self.events.get(timeout=NEXT_S)
            except queue.Empty:
                continue
            if isinstance(event, FedlearnError):
                raise event
            return event

    def attending(self) -> list[int]:
        """Return the clients that are connected, sorted.

        Raises RecordError when nobody can be let in any more.
        """
        if self._failure is not None:
            raise self._failure
        # Asked in the loop's thread: the table changes there.
        return sorted(self._thread.call(self._attending()).result())

    def figures(self) -> ExchangeFigures:
        """Return what the service counts.

        Raises RunError when its thread does not answer, as one that hangs.
        """
        if self._thread.is_alive():
            with contextlib.suppress(TimeoutError):
                return self._thread.call(self._figures()).result(FIGURES_S)
        raise RunError("the exchange does not answer")

    def stop(self, over: bool) -> None:
        """Send everybody away, for good where the run is over, and close."""
        # Not started, or stopped already.
        if not self._thread.is_alive():
            return
        # A goodbye that does not leave is no reason not to end.
        with contextlib.suppress(Exception):
            # More than the drain takes, so that only a loop that hangs is given up.
            self._thread.call(self._close(over)).result(streams.DRAIN_S + 5)
        self._thread.stop()

    # In the service's thread

    def _soon(self, event: Callable[[], Sequence[Action]]) -> None:
        self._loop.call_soon_threadsafe(self._guarded, event)

    def _guarded(self, event: Callable[[], Sequence[Action]]) -> None:
        """Do what follows from an event.

        If that fails the run has to end, because it waits for what will never come.
        """
        try:
            self._perform(event())
        except Exception as error:
            reason = f"the exchange failed: {type(error).__name__}: {error}"
            self.events.put(RunError(reason))

    async def _open(self) -> None:
        self._gate = CertificateGate(self.address.pki, self.rounds.counters, self.log)
        limits = admission_for(self.rounds.clients, self.log)
        await self._listeners.start(self._attend, self._gate, limits)
        ports = (self.port, self.enroll_port)
        counters = self.rounds.counters
        strangers = Strangers(ports, limits, self._streams, counters)
        self._looking = self._loop.create_task(strangers.watch())
        pki = self.address.pki
        if pki is not None:
            self._renewals = Renewals(pki, self.rounds.counters, self.log)
            self._watching = self._loop.create_task(self._watch())

    async def _attending(self) -> list[int]:
        return list(self.rounds.attending)

    async def _figures(self) -> ExchangeFigures:
        draining = "draining" if self.rounds.farewell else None
        segments = self.journal.folder.glob("*.log")
        return ExchangeFigures(
            attending=len(self.rounds.attending),
            open=sum(len(work) for work in self.rounds.book.open_work.values()),
            counters=dict(self.rounds.counters),
            up_bytes=self._witness.up_bytes,
            down_bytes=self._witness.down_bytes,
            journal_bytes=sum(path.stat().st_size for path in segments),
            lines_lost=self.log.lost,
            enrollments=self._listeners.enrollments(),
            trouble=self.trouble or draining,
        )

    async def _close(self, over: bool) -> None:
        """Send everybody away, and wait until the goodbyes have left."""
        reason = "the coordinator stops; the run can go on"
        if over:
            reason = "the run is over"
        self.log("drain", text=reason, attending=len(self.rounds.attending))
        self._perform(self.rounds.drain(None if over else RETURN_S))
        await self._streams.drain()
        await self._listeners.stop()

    async def _watch(self) -> None:
        """End the connections of revoked and of expired certificates, for ever."""
        # Polls in a row that could not read the authority.
        failures = 0
        while True:
            await asyncio.sleep(POLL_S)
            expired = self._streams.expired(time.time())
            if expired:
                self._perform(self.rounds.expire(expired))
            try:
                restored = self._gate.restored()
                if restored is not None:
                    self.log.note(restored)
                revoked = self._gate.shut_out(
                    self.rounds.attending,
                    self.rounds.book.open_work.keys(),
                    self._streams.serial,
                )
            # Nobody new is let in while the list is unreadable; those here may go on.
            # An error of any kind: a poll that ended would let the revoked stay, unnoticed.
            except (FedlearnError, OSError) as error:
                failures += 1
                self._unreadable(error, failures)
                continue
            failures = 0
            for client in sorted(revoked):
                self.log("revoked", client, text="its certificate is revoked")
            # Only then: `revoke` looks at every connection, and there may be thousands.
            if revoked:
                self._perform(self.rounds.revoke(revoked))

    def _unreadable(self, error: Exception, failures: int) -> None:
        """Note that the authority cannot be read, and in the end fail the run.

        failures: polls in a row.
        """
        # Once, as the log would grow with each poll.
        if failures == 1:
            self.log.note(str(error))
        if failures * POLL_S >= UNREADABLE_S and self._failure is None:
            self.trouble = str(error)
            self._failure = RecordError(self.trouble)
            self.events.put(self._failure)

    # One connection

    async def _attend(
        self, requests: AsyncIterator[pb.AgentFrame], context: AttendContext
    ) -> None:
        """Serve one connection until it ends."""
        reader = asyncio.current_task()
        assert reader is not None
        # Before the gate waits: numbers follow the order of arrival.
        self._session_count += 1
        session = self._session_count
        caller = await self._gate.caller(context)
        stream = AgentStream(context, reader, caller, peer_of(context.peer()))
        if not self._streams.add(session, stream):
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many calls")
        try:
            await self._listen(session, caller, context)
        # Dropped by us, a stream is cancelled after its last frames have left.
        except asyncio.CancelledError:
            if not stream.dropped:
                raise
        finally:
            self._streams.remove(session)
            self._perform(self.rounds.gone(session))
            self._witness.ended(session)
            # A dropped stream settles in `end`, before its reader is cancelled.
            if not stream.dropped:
                await stream.settle()

    async def _listen(
        self, session: int, caller: Caller, context: AttendContext
    ) -> None:
        """Take the frames of a connection until it ends."""
        now = time.monotonic()
        self._perform(self.rounds.connected(session, caller.client, now))
        while (frame := await self._read(session, context)) is not None:
            # Renewals go past the state machine, which knows no certificates.
            if frame.HasField("renewal") and caller.client is not None:
                await self._renew(session, caller, frame.renewal.request)
            else:
                self._perform(self.rounds.heard(session, frame, time.monotonic()))

    async def _read(self, session: int, context: AttendContext) -> pb.AgentFrame | None:
        """Return the next frame of a connection; None at its end."""
        try:
            frame = await context.read()
        except DecodeError:
            self.rounds.counters["garbled"] += 1
            goodbye = frames.goodbye("a frame that cannot be read")
            self._perform([SendToAgent(session, goodbye)])
            return None
        return frame if isinstance(frame, pb.AgentFrame) else None

    async def _renew(self, session: int, caller: Caller, request: bytes) -> None:
        """Answer a request for a new certificate."""
        if self._renewals is None or caller.client is None:
            return
        frame = await self._renewals.answer(caller.client, caller.serial, request)
        if frame is not None:
            self._perform([SendToAgent(session, frame)])

    # What the state machine asks

    def _perform(self, actions: Sequence[Action]) -> None:
        """Do what the state machine asks."""
        for action in actions:
            self._witness.saw(action)
            match action:
                case SendToAgent():
                    if not self._streams.push(action):
                        self.rounds.counters["unread"] += 1
                case StoreAnswer():
                    self._store(action)
                case DropSession():
                    self._streams.drop(action.session)
                case DeviceFacts():
                    self._note_facts(action)
                case WorkResult() | ModelMissing():
                    self.events.put(action)
        self._set_alarm()

    def _set_alarm(self) -> None:
        due = self.rounds.next_alarm()
        if self._alarm:
            self._alarm.cancel()
            self._alarm = None
        if due < float("inf"):
            # A millisecond later, so that it is due by the same clock when it rings.
            delay_s = max(0.0, due - time.monotonic()) + 0.001
            self._alarm = self._loop.call_later(delay_s, self._tick)

    def _tick(self) -> None:
        self._alarm = None
        self._guarded(lambda: self.rounds.tick(time.monotonic()))

    def _refuse(self, client: int, key: Key, reason: str) -> list[Action]:
        actions = self.rounds.refuse(client, key, reason)
        # Nobody is told, so no frame tells the log.
        if not actions:
            self._witness.refused(client, key, reason)
        return actions

    def _forget(self, before: int) -> list[Action]:
        self.rounds.forget(before)
        return []

    def _store(self, store: StoreAnswer) -> None:
        meta = {
            "kind": "answer",
            "client": store.client,
            "key": journal_key(store.client, store.key),
            "work": list(store.key),
        }
        journal = self.journal
        future = journal.append(meta, store.data, store.checksum)

        # Called in the journal's thread, which must not touch the state here.
        def stored(written: Future[None]) -> None:
            self._loop.call_soon_threadsafe(self._stored, store, written, journal)

        future.add_done_callback(stored)

    def _stored(
        self, store: StoreAnswer, written: Future[None], journal: Journal
    ) -> None:
        # Its run has ended meanwhile: whether it is on disk is nobody's trouble.
        if journal is not self.journal:
            return
        error = written.exception()
        if error is None:
            reach("coordinator.stored")
            # Only now: an acknowledgement promises that no crash loses the answer.
            self._guarded(lambda: self.rounds.stored(store.client, store.key))
            return
        # Noted once: every later answer fails for the same reason.
        if self.trouble is None:
            self.trouble = str(error)
            self.log("journal failed", text=self.trouble)
        if not isinstance(error, FedlearnError):
            error = RecordError(str(error))
        self.events.put(error)

    def _note_facts(self, device: DeviceFacts) -> None:
        """Keep what is known of a client's device, as long as it is not too much."""
        facts = self.devices.get(device.client, {}) | device.facts
        pace = self.rounds.book.paces.get(device.client)
        # What the agent cannot know: how fast it was reached.
        if pace is not None and pace.mbps:
            facts["down_mbps"] = round(pace.mbps, 2)
        # Facts come from outside: a device that tells ever new names is not followed.
        if len(facts) <= FACTS:
            self.devices[device.client] = facts
