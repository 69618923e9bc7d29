"""A server in this process on a free port, and one in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

from fedlearn.clients.infer.batching import Batcher
from fedlearn.clients.infer.framing import HttpLimits
from fedlearn.clients.infer.http import ConnectionLimits, HttpServer
from fedlearn.clients.infer.metrics import Measures
from fedlearn.clients.infer.oip import OpenInference, Served
from fedlearn.clients.infer.slot import ModelSlot

HEAD = b"POST /v2/models/m/infer HTTP/1.1\r\nhost: h\r\n"


@dataclass
class Here:
    """A server of this process."""

    port: int
    served: Served
    http: HttpServer

    async def exchange(self, data: bytes) -> bytes:
        """Return all that the server sends for some bytes, until it closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(data)
            return await asyncio.wait_for(reader.read(), 20)
        finally:
            await closed(writer)


async def closed(writer: asyncio.StreamWriter) -> None:
    """Close a connection, and wait for it."""
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


@contextlib.asynccontextmanager
async def serving(
    model: Path,
    framing: HttpLimits | None = None,
    limits: ConnectionLimits | None = None,
    **batching,
) -> AsyncIterator[Here]:
    """Serve a model as ``m`` while the block lasts."""
    measures = Measures()
    slot = ModelSlot(model, lambda text: None)
    served = Served("m", slot, Batcher(measures, **batching), measures)
    http = HttpServer(OpenInference(served), measures, framing, limits)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(http.connection, "127.0.0.1", 0)
    sweep = asyncio.create_task(http.sweep())
    try:
        yield Here(server.sockets[0].getsockname()[1], served, http)
    finally:
        sweep.cancel()
        server.close()
        await http.stop(5.0)
        await served.batcher.drained()
        served.batcher.close()


@dataclass
class Process:
    """A server in a process of its own. lines: what it has said so far."""

    popen: subprocess.Popen
    lines: list[str]

    def port(self, scheme: str = "http") -> int:
        match = re.search(rf"{scheme}://\S*:(\d+)", self.lines[0])
        assert match, self.lines
        return int(match[1])

    def wait_for(self, words: str) -> str:
        """Return the next line with some words."""
        assert self.popen.stderr is not None
        for line in self.popen.stderr:
            self.lines.append(line)
            if words in line:
                return line
        raise AssertionError(f"it ended without '{words}': {self.lines}")


@contextlib.contextmanager
def process(model: Path, *options: str) -> Iterator[Process]:
    """Serve a model as ``m`` by the command, on free ports."""
    command = [sys.executable, "-m", "fedlearn", "infer", str(model), "--name", "m"]
    popen = subprocess.Popen(
        [*command, *options], stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )
    server = Process(popen, [])
    try:
        server.wait_for("serves on")
        yield server
    finally:
        popen.kill()
        popen.wait()
        if popen.stderr is not None:
            popen.stderr.close()
