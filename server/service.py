"""The coordinator's network side: gRPC streams, the journal and a clock around `fedlearn.server.rounds`.

It lives in a thread with an event loop of its own; the run's thread asks for work and takes what comes of it. An answer is
acknowledged when the journal has it on disk, and not before.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import resource
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from fedlearn.errors import FedlearnError, RecordError, RunError
from fedlearn.exchange import CHANNEL, methods
from fedlearn.exchange import exchange_pb2 as pb
from fedlearn.exchange.keys import Key
from fedlearn.exchange.transfer import packed
from fedlearn.server import rounds, tokens
from fedlearn.server.enrollment import Enrollment
from fedlearn.server.figures import Figures
from fedlearn.server.identity import expiry, identity_of, server_credentials
from fedlearn.server.journal import Journal
from fedlearn.server.link import Link
from fedlearn.server.observe import Log, Witness
from fedlearn.server.rounds import (
    Answer,
    Drop,
    Lacking,
    Rounds,
    Send,
    Store,
    Told,
    Work,
)
from fedlearn.system.failpoints import reach
from fedlearn.system.malloc import keep_pages

POLL_S = 0.5
"""How often the list of revoked certificates is looked at."""

DRAIN_S = 2.0
"""How long a coordinator that stops waits for its last frames to leave."""

HANDSHAKE_S = 10.0
"""How long a connection may take until it speaks TLS and HTTP/2."""

STREAMS = 4
"""Calls of one connection at a time: an agent has one, and for a moment the one before."""

UNREAD_BYTES = 8 << 20
"""Of frames that may wait for an agent that does not read: what it says is answered, and it could say much."""

FRAME_COST = 512
"""Bytes of memory that a waiting frame takes beyond its own."""

FACTS = 64
"""Facts of a device that are kept."""

FIGURES_S = 5.0
"""How long the thread may take to tell its figures."""

RETURN_S = (0.5, 3.0)
"""When agents come back to a coordinator that restarts: spread over a few seconds."""

Event = Answer | Lacking | FedlearnError


@dataclass
class _Stream:
    """One agent's connection: what is to be sent, and the tasks that read and write it."""

    context: Any
    reader: asyncio.Task[Any]
    serial: int = 0  # of its certificate
    waiting: deque[Send] = field(default_factory=deque)
    unread: int = 0  # bytes that wait
    writer: asyncio.Task[None] | None = None
    dropped: bool = False


@dataclass(frozen=True)
class Address:
    """Where the coordinator listens; port 0: any that is free. pki: the authority's folder, None: without TLS."""

    host: str = "127.0.0.1"
    port: int = 0
    enroll_port: int = 0
    pki: Path | None = None


class Service:
    """See the module."""

    def __init__(
        self, rounds: Rounds, journal: Journal, address: Address, log: Log | None = None
    ) -> None:
        """Take the parts."""
        self.rounds, self.journal, self.address = rounds, journal, address
        self.log = log or Log(None, "nothing")
        self.devices: dict[
            int, dict[str, str | float]
        ] = {}  # client → what its agent tells of its device
        self.trouble: str | None = None  # why the journal takes no more answers
        self._witness = Witness(self.log, rounds)
        self.events: queue.Queue[Event] = queue.Queue()
        self.port = self.enroll_port = 0
        self._streams: dict[int, _Stream] = {}
        self._count = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._live, name="exchange", daemon=True)
        self._alarm: asyncio.TimerHandle | None = None
        self._servers: list[Any] = []
        self._enrollment: Enrollment | None = None

    # From the run's thread

    def start(self) -> None:
        """Listen; raises RunError when the address cannot be used, UserError for a folder without keys."""
        keep_pages()
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(
                resource.RLIMIT_NOFILE, (most, most)
            )  # a connection is a file, and 1024 is the usual first limit
        self._thread.start()
        self._call(self._open()).result()

    def ask(self, works: Sequence[Work], deadline_s: float, enough: int | None) -> None:
        """Open a batch; its answers come by `next`."""
        self._soon(lambda: self.rounds.ask(works, time.monotonic(), deadline_s, enough))

    def repair(
        self, client: int, key: Key, task: pb.Task, payloads: tuple[bytes, ...]
    ) -> None:
        """Answer `Lacking`."""
        self._soon(
            lambda: self.rounds.repair(client, key, task, payloads, time.monotonic())
        )

    def refuse(self, client: int, key: Key, reason: str) -> None:
        """Tell a client that its answer is not used."""
        self._soon(
            lambda: (
                self.rounds.refuse(client, key, reason)
                or self._witness.refused(client, key, reason)
            )
        )

    def recall(self, client: int, key: Key, data: bytes) -> None:
        """Note an answer that the journal holds."""
        self._soon(lambda: self.rounds.recall(client, key, data) or [])

    def forget(self, before: int) -> None:
        """Forget the answers of earlier rounds."""
        self._soon(lambda: self.rounds.forget(before) or [])  # type: ignore[func-returns-value]

    def next(self) -> Answer | Lacking:
        """Return what comes next; raises RecordError when the journal cannot be written."""
        while True:
            with contextlib.suppress(
                queue.Empty
            ):  # with a timeout, or Ctrl-C would wait for an answer
                found = self.events.get(timeout=0.5)
                if isinstance(found, FedlearnError):
                    raise found
                return found

    def attending(self) -> list[int]:
        """Return the clients that are connected, sorted."""
        return sorted(self._call(self._attending()).result())

    def figures(self) -> Figures:
        """Return what the service counts; raises RunError when its thread does not answer, as one that hangs."""
        try:
            if self._thread.is_alive():
                found: Figures = self._call(self._figures()).result(FIGURES_S)
                return found
        except TimeoutError:
            pass
        raise RunError("the exchange does not answer")

    def stop(self, over: bool) -> None:
        """Send everybody away, for good where the run is over, and close."""
        if not self._thread.is_alive():
            return
        with contextlib.suppress(Exception):
            self._call(self._close(over)).result(DRAIN_S + 5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    # In the service's thread

    def _live(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _call(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _soon(self, event: Callable[[], list[rounds.Action]]) -> None:
        self._loop.call_soon_threadsafe(lambda: self._guarded(event))

    def _guarded(self, event: Callable[[], Sequence[rounds.Action]]) -> None:
        """Do what follows from an event; if that fails the run has to end, for it waits for what will never come."""
        try:
            self._perform(event())
        except Exception as error:
            self.events.put(
                RunError(f"the exchange failed: {type(error).__name__}: {error}")
            )

    async def _open(self) -> None:
        address = self.address
        limits = (
            ("grpc.server_handshake_timeout_ms", round(1000 * HANDSHAKE_S)),
            ("grpc.max_concurrent_streams", STREAMS),
            ("grpc.so_reuseport", 0),
        )
        server = grpc.aio.server(options=[*CHANNEL, *limits])
        server.add_generic_rpc_handlers(
            (methods.attend_handler(self._attend), Link(address.pki).handler())
        )
        self._servers.append(server)
        if address.pki is None:
            self.port = self._bind(server, address.port, None)
        else:
            keys = server_credentials(address.pki)
            pair = [(keys.key, keys.certificate)]
            self.port = self._bind(
                server,
                address.port,
                grpc.ssl_server_credentials(pair, keys.ca, require_client_auth=True),
            )
            self._enrollment = Enrollment(address.pki)
            second = grpc.aio.server(
                options=[*CHANNEL, *limits], maximum_concurrent_rpcs=16
            )
            second.add_generic_rpc_handlers((self._enrollment.handler(),))
            self._servers.append(second)
            self.enroll_port = self._bind(
                second, address.enroll_port, grpc.ssl_server_credentials(pair)
            )
            self._revocations = tokens.Revocations(address.pki)
            self._loop.create_task(self._watch())
        for each in self._servers:
            await each.start()

    def _bind(self, server: Any, port: int, credentials: Any) -> int:
        place = f"{self.address.host}:{port}"
        try:
            bound: int = (
                server.add_secure_port(place, credentials)
                if credentials
                else server.add_insecure_port(place)
            )
        except RuntimeError:
            bound = 0
        if not bound:
            raise RunError(
                f"cannot listen on {place}: the port is taken, or the address is not of this machine; give another --port"
            )
        return bound

    async def _attending(self) -> list[int]:
        return list(self.rounds.attending)

    async def _figures(self) -> Figures:
        return Figures(
            attending=len(self.rounds.attending),
            open=sum(len(work) for work in self.rounds.open.values()),
            counters=dict(self.rounds.counters),
            up_bytes=self._witness.up_bytes,
            down_bytes=self._witness.down_bytes,
            journal_bytes=sum(
                path.stat().st_size for path in self.journal.folder.glob("*.log")
            ),
            lines_lost=self.log.lost,
            enrollments=dict(self._enrollment.counts) if self._enrollment else {},
            trouble=self.trouble or ("draining" if self.rounds.farewell else None),
        )

    async def _close(self, over: bool) -> None:
        text = "the run is over" if over else "the coordinator stops; the run can go on"
        self.log("drain", text=text, attending=len(self.rounds.attending))
        self._perform(self.rounds.drain(None if over else RETURN_S))
        end = time.monotonic() + DRAIN_S
        while time.monotonic() < end and any(
            s.waiting or (s.writer and not s.writer.done())
            for s in self._streams.values()
        ):
            await asyncio.sleep(0.01)
        for server in self._servers:
            await server.stop(0.2)

    async def _watch(self) -> None:
        """End the connections of revoked certificates."""
        while True:
            await asyncio.sleep(POLL_S)
            attending = self.rounds.attending
            try:
                limits = self._revocations.current()
                absent = [
                    client
                    for client in limits
                    if client in self.rounds.open and client not in attending
                ]
                shut_out = self._revocations.shut_out(absent) if absent else set[int]()
            except FedlearnError as error:
                self.log.note(str(error))
                continue
            refused = shut_out | {
                c
                for c in limits
                if c in attending and self._streams[attending[c]].serial <= limits[c]
            }
            for client in sorted(refused):
                self.log("revoked", client, text="its certificate is revoked")
            if refused:  # seldom; this is done all the time, and there may be thousands of connections to look at
                self._perform(self.rounds.revoke(refused))

    async def _attend(self, requests: Any, context: Any) -> None:
        """Serve one connection until it ends."""
        task = asyncio.current_task()
        assert task is not None
        self._count += 1
        session, stream = self._count, _Stream(context, task)
        client: int | None = None
        if self.address.pki is not None:
            try:
                client, stream.serial = identity_of(
                    context.auth_context()["x509_pem_cert"][0]
                )
                if self._revocations.refused(client, stream.serial):
                    raise RunError("the certificate is revoked")
            except (FedlearnError, KeyError, IndexError) as error:
                self.rounds.counters["wrong_certificate"] += 1
                self.log("turned away", client, text=str(error))
                await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))
        self._streams[session] = stream
        try:
            self._perform(self.rounds.connected(session, client, time.monotonic()))
            while (frame := await self._read(session, context)) is not None:
                if frame.WhichOneof("frame") == "renewal" and client is not None:
                    await self._renew(
                        session, client, stream.serial, frame.renewal.request
                    )
                else:
                    self._perform(self.rounds.heard(session, frame, time.monotonic()))
        except asyncio.CancelledError:
            if not stream.dropped:
                raise
        finally:
            self._streams.pop(session, None)
            self._perform(self.rounds.gone(session))
            self._witness.ended(session)
            if not stream.dropped:
                await _settle(stream)

    async def _read(self, session: int, context: Any) -> pb.AgentFrame | None:
        """Return the next frame of a connection; None at its end."""
        try:
            frame: pb.AgentFrame | None = await context.read()
        except DecodeError:
            self.rounds.counters["garbled"] += 1
            self._perform(
                [
                    Send(
                        session,
                        pb.CoordinatorFrame(
                            goodbye=pb.Goodbye(reason="a frame that cannot be read")
                        ),
                    )
                ]
            )
            return None
        return None if frame is grpc.aio.EOF else frame

    async def _renew(
        self, session: int, client: int, serial: int, request: bytes
    ) -> None:
        assert self.address.pki is not None
        try:
            made = await asyncio.to_thread(
                tokens.renew, self.address.pki, client, serial, request
            )
        except FedlearnError as error:
            self.log.note(f"client {client}: its certificate is not renewed: {error}")
            return
        self.log("renewed", client, text="its certificate")
        frame = pb.CoordinatorFrame(
            certificate=pb.Certificate(certificate=made, expires=expiry(made))
        )
        self._perform([Send(session, frame)])

    def _perform(self, actions: Sequence[rounds.Action]) -> None:
        """Do what the state machine asks."""
        for action in actions:
            self._witness.saw(action)
            if isinstance(action, Send):
                self._send(action)
            elif isinstance(action, Store):
                self._store(action)
            elif isinstance(action, Drop):
                self._drop(action)
            elif isinstance(action, Told):
                self._told(action)
            else:
                self.events.put(action)
        self._set_alarm()

    def _set_alarm(self) -> None:
        due = self.rounds.next_alarm()
        if self._alarm:
            self._alarm.cancel()
            self._alarm = None
        if due < float("inf"):
            self._alarm = self._loop.call_later(
                max(0.0, due - time.monotonic()) + 0.001, self._tick
            )

    def _tick(self) -> None:
        self._alarm = None
        self._guarded(lambda: self.rounds.tick(time.monotonic()))

    def _send(self, send: Send) -> None:
        stream = self._streams.get(send.session)
        if stream is None:
            return
        cost = _cost(send)
        if stream.unread + cost > UNREAD_BYTES:
            if not stream.dropped:
                self.rounds.counters["unread"] += 1
                self._drop(Drop(send.session, "it does not read"))
            return
        stream.waiting.append(send)
        stream.unread += cost
        if stream.writer is None or stream.writer.done():
            stream.writer = self._loop.create_task(self._write(send.session, stream))

    async def _write(self, session: int, stream: _Stream) -> None:
        try:
            while stream.waiting:
                send = stream.waiting.popleft()
                stream.unread -= _cost(send)
                await stream.context.write(
                    packed(send.frame, send.data) if send.data else send.frame
                )
        except Exception:  # the connection is gone: its reader tells
            stream.waiting.clear()

    def _store(self, store: Store) -> None:
        meta = {
            "kind": "answer",
            "client": store.client,
            "key": journal_key(store.client, store.key),
            "work": list(store.key),
        }
        future = self.journal.append(meta, store.data, store.checksum)
        future.add_done_callback(
            lambda done: self._loop.call_soon_threadsafe(self._stored, store, done)
        )

    def _stored(self, store: Store, done: Future[None]) -> None:
        if (error := done.exception()) is not None:
            if self.trouble is None:
                self.trouble = str(error)
                self.log("journal failed", text=self.trouble)
            self.events.put(
                error if isinstance(error, FedlearnError) else RecordError(str(error))
            )
        else:
            reach("coordinator.stored")
            self._guarded(lambda: self.rounds.stored(store.client, store.key))

    def _told(self, told: Told) -> None:
        """Keep what is known of a client's device, as long as it is not too much."""
        known = self.devices.get(told.client, {}) | told.facts
        if (pace := self.rounds.paces.get(told.client)) and pace.mbps:
            known["down_mbps"] = round(pace.mbps, 2)
        if len(known) <= FACTS:
            self.devices[told.client] = known

    def _drop(self, drop: Drop) -> None:
        stream = self._streams.get(drop.session)
        if stream is not None and not stream.dropped:
            stream.dropped = True
            self._loop.create_task(self._end(stream))

    async def _end(self, stream: _Stream) -> None:
        """Let the last frames leave, and end a connection."""
        await _settle(stream)
        stream.reader.cancel()


async def _settle(stream: _Stream) -> None:
    """Let the last frames leave: gRPC cannot end a call that is writing, and its agent would wait for the end for ever."""
    if stream.writer:
        with contextlib.suppress(Exception):
            await asyncio.wait_for(asyncio.shield(stream.writer), DRAIN_S)


def _cost(send: Send) -> int:
    """Return the memory that a waiting frame takes, bytes."""
    size: int = send.frame.ByteSize()
    return size + len(send.data) + FRAME_COST


def journal_key(client: int, key: Key) -> str:
    """Return the name of an answer in the journal."""
    return f"{client}/{key[0]}/{key[1]}/{key[2]}"
