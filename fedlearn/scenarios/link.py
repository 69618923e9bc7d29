"""A link between a device and its coordinator that can be slow, and cut: a relay of our own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time

from fedlearn.errors import RunError

# Of a part that is passed on at a time: a slow link is smooth.
_LEAST_BYTES = 16
_MOST_BYTES = 1 << 16

# Parts of a fast link that are passed on in a second.
_TURNS = 20

_START_S = 30.0


class SlowLink:
    """A port of this machine that leads to another one.

    passed: (at_s, bytes) of everything that went down, to the device. at_s: of
    `time.monotonic`.
    """

    def __init__(self, target: int) -> None:
        """Listen; raises RunError where that fails. target: the port where it leads to."""
        self._target = target
        # None: as fast as the machine is.
        self._bits_a_s: float | None = None
        self._is_cut = False
        self._tasks: set[asyncio.Task[None]] = set()
        self.passed: list[tuple[float, int]] = []
        self.port = 0
        is_listening = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(is_listening)), daemon=True
        )
        self._thread.start()
        if not is_listening.wait(_START_S):
            raise RunError("the link of the scenario cannot listen on this machine")

    def slow(self, bits_a_s: float | None) -> None:
        """Pass so much from now on, each way; None: as fast as the machine is."""
        self._bits_a_s = bits_a_s

    def cut(self) -> None:
        """Break all connections off, and let no new one through."""
        self._is_cut = True
        self._loop.call_soon_threadsafe(self._end)

    def mend(self) -> None:
        """Let connections through again."""
        self._is_cut = False

    def close(self) -> None:
        """End the relay."""
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    def bytes_since(self, at_s: float) -> int:
        """Return the bytes that went down since a moment."""
        return sum(size for moment, size in list(self.passed) if moment >= at_s)

    async def _serve(self, is_listening: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        server = await asyncio.start_server(self._pass, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        is_listening.set()
        await self._over.wait()
        server.close()
        self._end()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _end(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            if not self._is_cut:
                await self._through(reader, writer)
        self._tasks.discard(task)
        # A connection that is closed in order would wait for what is still on its way.
        writer.transport.abort()

    async def _through(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        far_reader, far_writer = await asyncio.open_connection(
            "127.0.0.1", self._target
        )
        ways = [self._pump(reader, far_writer, False)]
        ways.append(self._pump(far_reader, writer, True))
        tasks = [asyncio.create_task(way) for way in ways]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            far_writer.transport.abort()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        is_down: bool,
    ) -> None:
        """Pass bytes on in one direction, no faster than the link is."""
        while data := await reader.read(self._portion()):
            rate = self._bits_a_s
            # Before it is passed on: the last bit is there when all were sent.
            if rate is not None:
                await asyncio.sleep(8 * len(data) / rate)
            if is_down:
                self.passed.append((time.monotonic(), len(data)))
            writer.write(data)
            await writer.drain()

    def _portion(self) -> int:
        if self._bits_a_s is None:
            return _MOST_BYTES
        return max(_LEAST_BYTES, int(self._bits_a_s / 8 / _TURNS))
