"""A radio link of the scenario ``soil``: a relay whose bandwidth can be changed, down to none.

Bytes are late, as on a link that carries so many a second. On a link that is dead they wait,
as TCP would send them again: who asks sees no error, only silence.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

# About a request: on a busy machine each piece waits for its turn at the processor, too.
_PIECE_BYTES = 1 << 18

# A link that is dead is looked at again.
_LOOK_S = 0.01


class Radio:
    """Carries bytes to a port of this machine. rate: bits a second each way; 0: it is dead."""

    def __init__(self, port: int, turn_s: float) -> None:
        """Begin dead. port: where to. turn_s: there and back, without any bytes."""
        self.rate = 0.0
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
            await asyncio.gather(
                self._carry(reader, far_writer, 0), self._carry(far_reader, writer, 1)
            )

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: int
    ) -> None:
        """Carry one connection's bytes one way, until it ends."""
        with suppress(OSError):
            while piece := await reader.read(_PIECE_BYTES):
                await self._wait(len(piece), way)
                writer.write(piece)
        writer.close()
        self._writers.discard(writer)

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
