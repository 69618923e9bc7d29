"""A link that many connections share: so many bits per second each way, counted, and cut.

Bytes that come wait until the link has time for them, in the order in which they came. Who
sends is held up as by a real link: a connection has at most one piece in the relay.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from random import Random

# Of a connection at a time: small, so that fifty connections take turns.
PIECE_BYTES = 2048

# Until a relay listens.
_PATIENCE_S = 30.0


class Bucket:
    """One direction of a link: when a piece that comes now has passed."""

    def __init__(self, bits_per_s: float) -> None:
        """Take the link's rate; infinite: bytes are counted alone."""
        self.bits_per_s = bits_per_s
        self.passed_bytes = 0
        self._free_s = 0.0

    async def passing(self, count: int) -> None:
        """Wait until so many bytes have passed, after all that came before."""
        loop = asyncio.get_running_loop()
        self.passed_bytes += count
        begin_s = max(self._free_s, loop.time())
        self._free_s = begin_s + 8 * count / self.bits_per_s
        await asyncio.sleep(self._free_s - loop.time())


class Relay:
    """A shared link to a port of this machine, in a thread; `port` is its near end."""

    def __init__(self, target: int, bits_per_s: float = float("inf")) -> None:
        """Begin to listen. bits_per_s: each way."""
        self._target = target
        self.down = Bucket(bits_per_s)
        self.up = Bucket(bits_per_s)
        self.port = 0
        # Connections that ended.
        self.cuts = 0
        # Bytes down after which a connection ends, None: none does.
        self.bytes_a_connection: int | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        is_listening = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(is_listening)), daemon=True
        )
        self._thread.start()
        if not is_listening.wait(_PATIENCE_S):
            raise TimeoutError("the relay does not listen")

    def set_rate(self, bits_per_s: float) -> None:
        """Change the link's rate, each way."""
        self.down.bits_per_s = bits_per_s
        self.up.bits_per_s = bits_per_s

    def cut(self, share: float, draw: Random) -> None:
        """End a share of the connections now, without a word to either end."""
        self._loop.call_soon_threadsafe(self._cut, share, draw)

    def cut_all(self) -> None:
        """End every connection now."""
        self.cut(1.0, Random(0))

    def close(self) -> None:
        """End all connections, and the thread."""
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    async def _serve(self, is_listening: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        is_listening.set()
        await self._over.wait()
        server.close()
        self._cut(1.0, Random(0))
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _cut(self, share: float, draw: Random) -> None:
        for task in sorted(self._tasks, key=lambda task: task.get_name()):
            if draw.random() < share:
                task.cancel()

    async def _accept(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await self._join(reader, writer)
        finally:
            self.cuts += 1
            self._tasks.discard(task)
            writer.transport.abort()

    async def _join(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Pass bytes both ways until one end closes."""
        far_reader, far_writer = await asyncio.open_connection(
            "127.0.0.1", self._target
        )
        bound = self.bytes_a_connection
        pumps = [
            asyncio.create_task(_pump(reader, far_writer, self.up)),
            asyncio.create_task(_pump(far_reader, writer, self.down, bound)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            far_writer.transport.abort()


async def _pump(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    bucket: Bucket,
    bound: int | None = None,
) -> None:
    """Pass bytes one way, until an end closes or there were more than ``bound``."""
    passed = 0
    with contextlib.suppress(OSError):
        while data := await reader.read(PIECE_BYTES):
            passed += len(data)
            if bound is not None and passed > bound:
                return
            await bucket.passing(len(data))
            writer.write(data)
            await writer.drain()
