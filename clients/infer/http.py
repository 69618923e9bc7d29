"""HTTP/1.1 on asyncio: connections that stay, answers in order, and limits on everything.

One connection costs a bounded amount of memory and of time, whatever comes over it. No
timer runs for each of them: one look a second ends those that are overdue.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import Counter, deque
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from fedlearn.clients.infer import answers
from fedlearn.clients.infer.addresses import remote
from fedlearn.clients.infer.answers import HttpAnswer
from fedlearn.clients.infer.batching import Query
from fedlearn.clients.infer.framing import Framing, HttpLimits, HttpRequest
from fedlearn.clients.infer.metrics import Measures
from fedlearn.clients.infer.oip import Reply
from fedlearn.clients.infer.refusal import Refusal

# Seconds between two looks at all connections.
SWEEP_S = 1.0

# A client that is refused may be sending still: its answer would be lost with a reset.
_LINGER_S = 2.0

# Of one read. asyncio's own reads allocate 256 KiB each, which costs 10 MB in the end.
_READ_BYTES = 64 << 10

# Bytes of answers that may wait in a connection before no more of its requests are read.
_WRITE_BYTES = 256 << 10


class HttpHandler(Protocol):
    """What answers requests."""

    def handle(self, request: HttpRequest, reply: Reply) -> Query | None:
        """Answer by one call of ``reply``; what is returned waits, and may be dropped."""

    def refuse(self, refusal: Refusal) -> HttpAnswer:
        """Return the answer to what cannot be read."""


@dataclass(frozen=True)
class ConnectionLimits:
    """What connections may have and do.

    per_address: of one remote address; this machine's own are not counted. pipeline:
    requests of one connection that may wait. idle_s: between requests. request_s: from a
    request's first byte to its last. answer_s: until a client takes what it is sent.
    held_bytes: of all requests together that are not whole.
    """

    connections: int = 256
    per_address: int = 64
    pipeline: int = 16
    idle_s: float = 75.0
    request_s: float = 20.0
    answer_s: float = 20.0
    held_bytes: int = 64 << 20


class HttpServer:
    """All connections of a server, and what they share."""

    def __init__(
        self,
        handler: HttpHandler,
        measures: Measures,
        framing: HttpLimits | None = None,
        limits: ConnectionLimits | None = None,
    ) -> None:
        """Begin without connections."""
        self.handler = handler
        self.measures = measures
        self.framing = framing or HttpLimits()
        self.limits = limits or ConnectionLimits()
        self.connections: set[HttpConnection] = set()
        self.addresses: Counter[str] = Counter()
        self.held_bytes = 0
        self.is_stopping = False
        # For all connections: what a read brings is copied before the next one.
        self.buffer = memoryview(bytearray(_READ_BYTES))

    def connection(self) -> HttpConnection:
        """Return the protocol of a new connection, as asyncio asks for it."""
        return HttpConnection(self)

    def admit(self, connection: HttpConnection, address: str) -> str:
        """Count a connection; returns why it is turned away, or ""."""
        if len(self.connections) >= self.limits.connections:
            return "connections"
        if address and self.addresses[address] >= self.limits.per_address:
            return "address"
        self.connections.add(connection)
        if address:
            self.addresses[address] += 1
        return ""

    def forget(self, connection: HttpConnection, address: str) -> None:
        """Count a connection no more."""
        if connection not in self.connections:
            return
        self.connections.discard(connection)
        if address:
            self.addresses[address] -= 1
            # Addresses come and go: those without a connection take no memory.
            self.addresses += Counter()

    async def sweep(self) -> None:
        """End overdue connections, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SWEEP_S)
            now = loop.time()
            for connection in list(self.connections):
                connection.expire(now)

    async def stop(self, grace_s: float) -> None:
        """Answer what has come, close every connection, and wait for it so long."""
        self.is_stopping = True
        for connection in list(self.connections):
            connection.stop()
        waited_s = 0.0
        while self.connections and waited_s < grace_s:
            await asyncio.sleep(0.02)
            waited_s += 0.02
        for connection in list(self.connections):
            connection.abort()


# `eq=False`: each is itself.
@dataclass(eq=False, slots=True)
class _Exchange:
    """A request and its answer. data: the answer's bytes once it is there."""

    keep_alive: bool
    is_head: bool = False
    data: bytes | None = None
    query: Query | None = None


class HttpConnection(asyncio.BufferedProtocol):
    """One client's connection."""

    def __init__(self, server: HttpServer) -> None:
        """Wait to be connected."""
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._framing = Framing(server.framing)
        self._transport: asyncio.Transport | None = None
        self._address = ""
        # In the order of the requests, which is the order of the answers.
        self._order: deque[_Exchange] = deque()
        self._deadline = math.inf
        self._counted_bytes = 0
        # When the first byte of a request came that is not whole; None: there is none.
        self._since: float | None = None
        self._is_advancing = False
        self._is_paused = False
        # The client does not take its answers.
        self._is_full = False
        # No further request is read.
        self._is_ending = False
        # What still comes is thrown away.
        self._is_lingering = False

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, or turn the client away."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=_WRITE_BYTES)
        self._address = remote(transport.get_extra_info("peername"))
        reason = self._server.admit(self, self._address)
        if reason:
            self._is_ending = True
            self._server.measures.refused[reason] += 1
            refusal = Refusal(503, "busy", "too many connections; try again later", 1)
            answer = self._server.handler.refuse(refusal)
            transport.write(answer.encoded(keep_alive=False, is_head=False))
            transport.close()
            return
        self._deadline = self._loop.time() + self._server.limits.idle_s

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where the next read goes."""
        return self._server.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take what a read brought."""
        if self._is_ending:
            return
        self._framing.feed(self._server.buffer[:nbytes])
        self._advance()

    def eof_received(self) -> bool:
        """Answer what has come, though the client sends no more."""
        self._is_ending = True
        self._settle()
        # TLS has no half of a connection.
        is_plain = self._transport is not None and self._transport.can_write_eof()
        return bool(self._order) and is_plain

    def pause_writing(self) -> None:
        """Read no more of a client that does not take its answers."""
        self._is_full = True
        self._pause()
        self._deadline = self._loop.time() + self._server.limits.answer_s

    def resume_writing(self) -> None:
        """Go on: the client has taken its answers."""
        self._is_full = False
        self._resume()

    def connection_lost(self, exception: Exception | None) -> None:
        """Drop what nobody waits for any more."""
        for exchange in self._order:
            if exchange.query is not None:
                exchange.query.is_dropped = True
        self._order.clear()
        self._is_ending = True
        self._count(0)
        self._server.forget(self, self._address)
        self._transport = None

    # What the server calls

    def expire(self, now: float) -> None:
        """End the connection if it is overdue."""
        if now < self._deadline or self._transport is None:
            return
        if self._is_full or self._is_lingering or self._is_ending:
            self.abort()
        elif self._framing.is_idle:
            self._transport.close()
        else:
            text = "the request took too long to come"
            self._refuse(Refusal(408, "too_slow", text))

    def stop(self) -> None:
        """Read no further request, and close once the last one is answered."""
        if not self._is_ending:
            self._is_ending = True
            # With bytes unread the system would reset it, and answers could be lost.
            self._is_lingering = self._is_paused or not self._framing.is_idle
            self._settle()
            self._close_if_done()

    def abort(self) -> None:
        """End at once."""
        if self._transport is not None:
            self._transport.abort()

    # Requests and answers

    def _advance(self) -> None:
        """Begin every request that is whole, as far as the limits allow."""
        # An answer that is there at once comes back to this method.
        if self._is_advancing:
            return
        self._is_advancing = True
        try:
            while self._may_read():
                request = self._framing.next()
                if request is None:
                    break
                self._since = None
                self._begin(request)
        except Refusal as refusal:
            self._refuse(refusal)
        finally:
            self._is_advancing = False
        self._settle()

    def _may_read(self) -> bool:
        if len(self._order) >= self._server.limits.pipeline or self._is_full:
            self._pause()
            return False
        return not self._is_ending

    def _begin(self, request: HttpRequest) -> None:
        keep_alive = request.keep_alive and not self._server.is_stopping
        exchange = _Exchange(keep_alive, is_head=request.method == b"HEAD")
        self._order.append(exchange)
        if not keep_alive:
            self._is_ending = True
        reply = partial(self._answered, exchange)
        exchange.query = self._server.handler.handle(request, reply)

    def _answered(self, exchange: _Exchange, answer: HttpAnswer) -> None:
        keep_alive = exchange.keep_alive and not self._server.is_stopping
        exchange.data = answer.encoded(keep_alive, exchange.is_head)
        exchange.query = None
        self._flush()

    def _flush(self) -> None:
        """Write the answers that nothing before them waits for."""
        transport = self._transport
        if transport is None:
            return
        while self._order and self._order[0].data is not None:
            transport.write(self._order.popleft().data or b"")
        if not self._is_advancing:
            self._resume()
        self._close_if_done()

    def _refuse(self, refusal: Refusal) -> None:
        """Answer what cannot be read, after all before it; then close."""
        self._is_ending = True
        self._is_lingering = True
        # What has come of it takes memory for nothing.
        self._framing = Framing(self._server.framing)
        self._count(0)
        answer = self._server.handler.refuse(refusal)
        exchange = _Exchange(keep_alive=False)
        exchange.data = answer.encoded(keep_alive=False, is_head=False)
        self._order.append(exchange)
        self._flush()

    def _close_if_done(self) -> None:
        transport = self._transport
        if transport is None or not self._is_ending or self._order:
            return
        if not self._is_lingering:
            transport.close()
            return
        # The client reads the answer, and then an end; what it sends meanwhile is lost.
        self._deadline = self._loop.time() + _LINGER_S
        if transport.can_write_eof():
            with contextlib.suppress(OSError):
                transport.write_eof()
            self._is_paused = False
            transport.resume_reading()
        else:
            transport.close()

    # Limits

    def _settle(self) -> None:
        """Bring the deadline and the count of bytes up to date."""
        if self._is_ending:
            self._count(0)
            return
        self._count(self._framing.held_bytes)
        if self._server.held_bytes > self._server.limits.held_bytes:
            text = "too many large requests are coming in; try again later"
            self._refuse(Refusal(503, "busy", text, 1))
            return
        # Not while others are unanswered: it would come before their answers.
        if not self._order and self._framing.take_continue() and self._transport:
            self._transport.write(answers.CONTINUE)
        if not self._is_full:
            self._deadline = self._next_deadline()

    def _next_deadline(self) -> float:
        limits = self._server.limits
        # While it waits for us it is not late.
        if self._order:
            return math.inf
        now = self._loop.time()
        if self._framing.is_idle:
            return now + limits.idle_s
        # Not from its latest byte: a client that sends one at a time would never end.
        if self._since is None:
            self._since = now
        return self._since + limits.request_s

    def _count(self, held_bytes: int) -> None:
        self._server.held_bytes += held_bytes - self._counted_bytes
        self._counted_bytes = held_bytes

    def _pause(self) -> None:
        if not self._is_paused and self._transport is not None:
            self._is_paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        """Read again, first of what has come already."""
        if self._is_full or self._is_ending:
            return
        if self._is_paused and self._transport is not None:
            self._is_paused = False
            self._transport.resume_reading()
        self._advance()
