"""A radio link of a scenario: a relay whose bandwidth can be changed, down to none.

Bytes are late, as on a link that carries so many a second. On a link that is dead they wait,
as TCP would send them again: who asks sees no error, only silence.
"""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress

from fedlearn.errors import RunError

# About a request: on a busy machine each piece waits for its turn at the processor, too.
_PIECE_BYTES = 1 << 18

# The two ways: to the port, and back from it.
_THERE, _BACK = 0, 1

# A link that is dead is looked at again.
_LOOK_S = 0.01


class Radio:
    """Carries bytes to a port of this machine.

    rate: bits a second each way; 0: it is dead. came: (at_s, bytes) of all that has come back
    from the port; at_s: of `time.monotonic`.
    """

    def __init__(
        self, port: int, turn_s: float, piece_bytes: int = _PIECE_BYTES
    ) -> None:
        """Begin dead. port: where to. turn_s: there and back, without any bytes.

        piece_bytes: most that arrives at a time.
        """
        self.rate = 0.0
        self.came: list[tuple[float, int]] = []
        self._piece_bytes = piece_bytes
        self._port = port
        self._turn_s = turn_s
        # Moments at which each way has carried what it was given: all connections share it.
        self._free_s = [0.0, 0.0]
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def open(self) -> int:
        """Listen on a free port, and return it."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def close(self) -> None:
        """Listen no more, and end all connections."""
        if self._server is not None:
            self._server.close()
        for writer in self._writers:
            # At once: what a dead link still has goes nowhere.
            writer.transport.abort()

    async def _connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        # The scenario's end ends what is still connected.
        with suppress(asyncio.CancelledError, OSError):
            far_reader, far_writer = await asyncio.open_connection(
                "127.0.0.1", self._port
            )
            self._writers |= {writer, far_writer}
            ways = [
                asyncio.create_task(self._carry(reader, far_writer, _THERE)),
                asyncio.create_task(self._carry(far_reader, writer, _BACK)),
            ]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            # What is still on its way to an end that has gone does not take up the link.
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for each in (writer, far_writer):
                each.close()
                self._writers.discard(each)

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: int
    ) -> None:
        """Carry one connection's bytes one way, until it ends."""
        with suppress(OSError):
            while piece := await reader.read(self._piece_bytes):
                await self._wait(len(piece), way)
                if way == _BACK:
                    self.came.append((time.monotonic(), len(piece)))
                writer.write(piece)

    async def _wait(self, size_bytes: int, way: int) -> None:
        """Return when the link has carried so many bytes."""
        while self.rate == 0:
            await asyncio.sleep(_LOOK_S)
        now_s = time.monotonic()
        # Pieces follow each other at once: only the first of them waits for half a turn.
        begin_s = max(self._free_s[way], now_s)
        if begin_s == now_s:
            begin_s += self._turn_s / 2
        self._free_s[way] = begin_s + 8 * size_bytes / self.rate
        await asyncio.sleep(self._free_s[way] - now_s)


class RadioThread:
    """A radio link in a thread of its own, open from here to `close`."""

    def __init__(self, radio: Radio) -> None:
        """Open it. Raises RunError where this machine has no port for it."""
        self.radio = radio
        self.port = 0
        self._is_up = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._is_up.wait()
        if not self.port:
            raise RunError("the radio link of the scenario finds no free port")

    def close(self) -> None:
        """Close it, and end its thread."""
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    def _run(self) -> None:
        try:
            asyncio.run(self._live())
        finally:
            # Also where it failed: whoever made it waits.
            self._is_up.set()

    async def _live(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        with suppress(OSError):
            self.port = await self.radio.open()
            self._is_up.set()
            await self._over.wait()
            self.radio.close()
