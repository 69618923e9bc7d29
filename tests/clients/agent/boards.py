"""A fleet of real processes: a coordinator, agents with a model each, links that can be cut."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fedlearn.clients.device.record_file import loads
from fedlearn.clients.device.slots import RECORD_FILE, InstallDisk
from fedlearn.clients.installed import InstallRecord, SlotContent
from fedlearn.package.content import Package
from fedlearn.records.names import ADDRESS_FILE
from tests.clients.device import releases
from tests.clients.infer.serving import closed

SETTINGS = """\
[releases]
accept = {name}
keys = {key}
watch_s = {watch_s}
serve = --port {port} --name m
{more}
[rules]
hot_c = 120
cool_c = 119
battery_percent = 0
memory_mb = 0
memory_low_mb = 0
"""


def until(is_so: Callable[[], Any], seconds: float = 100.0) -> Any:
    """Return what a question is answered by at last, which is no zero."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = is_so()
        if value:
            return value
        time.sleep(0.1)
    raise AssertionError(f"never so: {is_so}")


def free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        port: int = place.getsockname()[1]
        return port


class Link:
    """A way to a port of this machine that can be cut and mended."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._tasks: set[asyncio.Task] = set()
        self._is_cut = False
        self.port = 0
        is_listening = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(is_listening))
        )
        self._thread.start()
        assert is_listening.wait(30)

    def cut(self) -> None:
        self._is_cut = True
        self._loop.call_soon_threadsafe(self._end)

    def mend(self) -> None:
        self._is_cut = False

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

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

    async def _pass(self, reader, writer) -> None:
        if not self._is_cut:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await self._through(reader, writer)
            self._tasks.discard(task)
        await closed(writer)

    async def _through(self, reader, writer) -> None:
        far_reader, far_writer = await asyncio.open_connection(
            "127.0.0.1", self._target
        )
        pumps = [_pump(reader, far_writer), _pump(far_reader, writer)]
        tasks = [asyncio.create_task(pump) for pump in pumps]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await closed(far_writer)


async def _pump(reader, writer) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


class Board:
    """A device with a committed release, its agent, and clients that ask its model."""

    def __init__(
        self, folder: Path, number: int, package: Package, coordinator: int
    ) -> None:
        self.state = folder / f"board {number}"
        self.number = number
        self.port = free_port()
        self.link = Link(coordinator)
        self.codes: list[int] = []
        self._is_over = threading.Event()
        self._clients: threading.Thread | None = None
        release = releases.name_of(package)
        disk = InstallDisk(self.state / "releases")
        disk.stage(package, "a", release)
        contents = {"a": SlotContent(release, True)}
        # mypy knows no slot by its letter.
        record = InstallRecord(uuid.uuid4().hex, 1, "a", contents)  # type: ignore[arg-type]
        disk.write(record)

    @property
    def record(self) -> InstallRecord:
        return loads((self.state / "releases" / RECORD_FILE).read_bytes())

    def status(self) -> dict[str, Any]:
        """Return the page of status of what serves; empty while nothing does."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request("GET", "/status")
            value: dict[str, Any] = json.loads(connection.getresponse().read())
            return value
        except OSError:
            return {}
        finally:
            connection.close()

    def ask(self) -> None:
        """Begin to ask the model without a pause of more than some milliseconds."""
        self._clients = threading.Thread(target=self._ask)
        self._clients.start()

    def _ask(self) -> None:
        draw = np.random.default_rng(self.number)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        while not self._is_over.wait(0.02):
            row = [int(value) for value in draw.integers(0, 256, 6)]
            entry = {"name": "x", "datatype": "UINT8", "shape": [1, 6], "data": row}
            body = json.dumps({"inputs": [entry]})
            connection.request("POST", "/v2/models/m/infer", body)
            answer = connection.getresponse()
            answer.read()
            self.codes.append(answer.status)
        connection.close()

    def close(self) -> None:
        self._is_over.set()
        if self._clients is not None:
            self._clients.join()


@contextlib.contextmanager
def fleet(
    folder: Path,
    package: Package,
    key: Path,
    watch_s: float,
    count: int,
    more: str = "",
    start: Callable[..., subprocess.Popen] | None = None,
) -> Iterator[list[Board]]:
    """Have a coordinator in ``folder``/fleet, and boards that attend and serve a package.

    start: starts an agent as `started` does, perhaps on another processor.
    """
    place = folder / "fleet"
    processes = [started(folder, "fleet", place, "--insecure")]
    boards: list[Board] = []
    try:
        path = place / ADDRESS_FILE
        port = until(lambda: path.exists() and json.loads(path.read_text())["port"])
        for number in range(count):
            board = Board(folder, number, package, port)
            boards.append(board)
            settings = folder / f"board-{number}.ini"
            settings.write_text(
                SETTINGS.format(
                    name=package.manifest.name,
                    key=key,
                    watch_s=watch_s,
                    port=board.port,
                    more=more,
                )
            )
            options = ["--state", board.state, "--client", number, "--insecure"]
            options += ["--coordinator", f"127.0.0.1:{board.link.port}"]
            options += ["--settings", settings]
            processes.append((start or started)(folder, "agent", *options))
        yield boards
    finally:
        for board in boards:
            board.close()
        # Agents first: each ends what it serves with.
        for process in reversed(processes):
            process.terminate()
        codes = [process.wait() for process in processes]
        for board in boards:
            board.link.close()
    # In order: nothing that served outlives its agent.
    assert codes[1:] == [0] * count
    assert not any(board.status() for board in boards)


def started(folder: Path, *words: object) -> subprocess.Popen:
    """Start a command of ours in a folder."""
    command = [sys.executable, "-m", "fedlearn", *map(str, words)]
    return subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL)
