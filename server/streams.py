"""The frames that wait for agents, and the tasks that write them."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

from fedlearn.exchange.methods import AttendContext
from fedlearn.exchange.transfer import packed
from fedlearn.server.actions import SendToAgent
from fedlearn.server.gate import Caller
from fedlearn.system.sockets import End

# Unsent bytes that are kept for an agent which does not read: every frame of an agent is
# answered, so an unbounded queue would be an attack.
UNREAD_BYTES = 8 << 20

# Bytes of memory that a waiting frame takes beyond its own.
FRAME_COST = 512

# Streams of one client at a time: it has one, and those that it gave up end within seconds.
STREAMS_EACH = 8

# How long a stream that ends waits for its last frames to leave.
DRAIN_S = 2.0


@dataclass
class AgentStream:
    """One agent's connection. reader: the task that reads. caller: of its certificate.

    peer: its other end; None: gRPC does not say.
    """

    context: AttendContext
    reader: asyncio.Task[Any]
    caller: Caller
    peer: End | None
    dropped: bool = False
    _waiting: deque[SendToAgent] = field(default_factory=deque)
    _unread_bytes: int = 0
    _writer: asyncio.Task[None] | None = None

    @property
    def is_writing(self) -> bool:
        """Tell whether frames are still to leave."""
        if self._waiting:
            return True
        return self._writer is not None and not self._writer.done()

    def push(self, send: SendToAgent) -> bool:
        """Have a frame written; False: too much waits already, so it is dropped."""
        # Dropping single frames is safe: their connection is ended then, and begins
        # anew.
        cost = _cost(send)
        if self._unread_bytes + cost > UNREAD_BYTES:
            return False
        self._waiting.append(send)
        self._unread_bytes += cost
        # One writer at a time, as gRPC takes one write after another.
        if self._writer is None or self._writer.done():
            self._writer = asyncio.get_running_loop().create_task(self._write())
        return True

    async def settle(self) -> None:
        """Let the last frames leave.

        gRPC cannot end a call that is writing, and its agent would wait for the end for
        ever.
        """
        if self._writer is not None:
            with contextlib.suppress(Exception):
                # Shielded: the limit must not cancel the write itself.
                await asyncio.wait_for(asyncio.shield(self._writer), DRAIN_S)

    async def end(self) -> None:
        """Let the last frames leave, and end the connection."""
        await self.settle()
        self.reader.cancel()

    async def _write(self) -> None:
        try:
            while self._waiting:
                send = self._waiting.popleft()
                # Before the write: what gRPC holds is bounded by its own window.
                self._unread_bytes -= _cost(send)
                if send.data:
                    await self.context.write(packed(send.frame, send.data))
                else:
                    await self.context.write(send.frame)
        # The connection is gone: its reader notices, and nothing is left to say.
        except Exception:
            self._waiting.clear()


class AgentStreams:
    """The streams of all agents, by the numbers of their connections."""

    def __init__(self) -> None:
        """Begin without streams."""
        self._by_session: dict[int, AgentStream] = {}
        # When each certificate expires, and its connection: the first to expire is in front.
        self._expiries: list[tuple[float, int]] = []
        # client → its streams; without certificates nobody is counted.
        self._of_client = Counter[int]()
        # A task that nobody refers to may be collected before it ends.
        self._ending: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._by_session)

    def add(self, session: int, stream: AgentStream) -> bool:
        """Take the stream of a new connection; False: its client has too many."""
        client = stream.caller.client
        if client is not None:
            if self._of_client[client] >= STREAMS_EACH:
                return False
            self._of_client[client] += 1
        self._by_session[session] = stream
        heapq.heappush(self._expiries, (stream.caller.expires, session))
        # Entries of connections that have ended would pile up until their certificates expire.
        if len(self._expiries) > 2 * len(self._by_session) + 64:
            self._expiries = [
                entry for entry in self._expiries if entry[1] in self._by_session
            ]
            heapq.heapify(self._expiries)
        return True

    def expired(self, now: float) -> list[int]:
        """Return the connections whose certificates expired since this was asked last.

        now: in seconds since 1970.
        """
        sessions = []
        # A heap: thousands of connections are asked about twice a second.
        while self._expiries and self._expiries[0][0] <= now:
            _, session = heapq.heappop(self._expiries)
            if session in self._by_session:
                sessions.append(session)
        return sessions

    def remove(self, session: int) -> None:
        """Forget the stream of a connection that ended."""
        stream = self._by_session.pop(session, None)
        if stream is not None and stream.caller.client is not None:
            # No entry of zero: every client ever seen would stay.
            client = stream.caller.client
            self._of_client[client] -= 1
            if not self._of_client[client]:
                del self._of_client[client]

    def serial(self, session: int) -> int:
        """Return the serial number of a connection's certificate."""
        return self._by_session[session].caller.serial

    def peers(self) -> list[End]:
        """Return the other ends of all of them."""
        streams = self._by_session.values()
        return [stream.peer for stream in streams if stream.peer is not None]

    def push(self, send: SendToAgent) -> bool:
        """Have a frame written; False: its agent does not read, and is dropped now."""
        stream = self._by_session.get(send.session)
        # Unknown or already ending: there is nobody to tell.
        if stream is None or stream.push(send) or stream.dropped:
            return True
        self.drop(send.session)
        return False

    def drop(self, session: int) -> None:
        """End a connection once its last frames have left."""
        stream = self._by_session.get(session)
        if stream is None or stream.dropped:
            return
        stream.dropped = True
        ending = asyncio.get_running_loop().create_task(stream.end())
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    async def drain(self) -> None:
        """Wait until all frames have left, but not longer than DRAIN_S."""
        end = time.monotonic() + DRAIN_S
        while time.monotonic() < end:
            # Polled: it happens once, at the end of a run.
            if not any(stream.is_writing for stream in self._by_session.values()):
                break
            await asyncio.sleep(0.01)


def _cost(send: SendToAgent) -> int:
    """Return the memory that a waiting frame takes, bytes."""
    frame_bytes: int = send.frame.ByteSize()
    return frame_bytes + len(send.data) + FRAME_COST
