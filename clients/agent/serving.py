"""The process that serves a device's model: started, watched and stopped by the agent.

`serving.json` in the folder of the slots names the slot that is served; ``fedlearn infer``
follows it without a dropped request. The file is derived: what counts is the record.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fedlearn.clients.agent.serving_page import ServingPage, page_of
from fedlearn.clients.installed import Slot
from fedlearn.exchange.releases import ReleaseId, WatchFigures
from fedlearn.system import files

SERVING_FILE = "serving.json"
SOCKET_FILE = "infer.sock"

# How often figures are read.
LOOK_S = 2.0

# Bounds of the pause before a process that ended is started again.
_LEAST_PAUSE_S = 0.5
_MOST_PAUSE_S = 30.0

# Seconds that a process is given to end, and its page to come.
_END_S = 10.0
_PAGE_S = 5.0

# Of a page that are read at a time.
_PAGE_BYTES = 64 << 10

# Of the server, where its owner names none.
_PORT = 8000

# Of a socket's path, on every system (104 on some, 108 on Linux).
_MOST_SOCKET_BYTES = 100


@dataclass(frozen=True)
class ServingEvent:
    """What became of the process."""

    kind: Literal["ready", "figures", "ended"]
    slot: Slot | None = None
    figures: WatchFigures = field(default_factory=WatchFigures)
    reason: str = ""


class ServingProcess:
    """See the module. `want` says what is to be served, and `look` sees to it."""

    def __init__(
        self,
        folder: Path,
        arguments: Sequence[str] | None,
        say: Callable[[str], None],
        share: float = 0.0,
    ) -> None:
        """Take the folder of the slots.

        arguments: of ``fedlearn infer``, None: not here. share: of the requests that a shadow
        answers too.
        """
        self._file = folder / SERVING_FILE
        self._arguments: tuple[str, ...] | None = None
        self._socket = folder / SOCKET_FILE
        if arguments is not None:
            self._arguments, self._socket = with_socket(folder, arguments)
        self._say = say
        self._share = share
        self._shadow: Slot | None = None
        self._slot: Slot | None = None
        self._release: ReleaseId | None = None
        self._is_changed = False
        self._is_ready = False
        self._process: asyncio.subprocess.Process | None = None
        # When it may be started again, and how long it waits after the next end.
        self._start_s = 0.0
        self._pause_s = _LEAST_PAUSE_S
        self._looked_s = float("-inf")
        self._before: ServingPage | None = None

    def want(
        self,
        slot: Slot | None,
        release: ReleaseId | None,
        shadow: Slot | None = None,
    ) -> None:
        """Take what is to be served; the same again changes nothing, unless it ended.

        shadow: a slot whose release answers a share of the requests too, to be compared.
        """
        shadow = shadow if self._share else None
        is_same = (slot, release) == (self._slot, self._release)
        if is_same and shadow == self._shadow and self._is_ready:
            return
        self._shadow = shadow
        self._slot = slot
        self._release = release
        self._is_changed = True
        self._is_ready = False

    async def look(self) -> list[ServingEvent]:
        """Start, stop or swap what is to be, and return what happened since the last look."""
        if self._is_changed:
            self._is_changed = False
            await self._change()
        if self._slot is None:
            return []
        if self._arguments is None:
            return self._ready() if not self._is_ready else []
        process = self._process
        if process is not None and process.returncode is not None:
            return [self._ended(process.returncode)]
        now = time.monotonic()
        if process is None:
            if now >= self._start_s:
                await self._start()
            return []
        if now - self._looked_s < LOOK_S and self._is_ready:
            return []
        self._looked_s = now
        return await self._figures()

    async def stop(self) -> None:
        """End the process; what it was asked is answered first."""
        process = self._process
        self._process = None
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), _END_S)
        except asyncio.TimeoutError:
            process.kill()
            await process.wait()

    async def _change(self) -> None:
        """Name the slot in the file, which a running process follows."""
        if self._slot is None:
            self._file.unlink(missing_ok=True)
            await self.stop()
            return
        value: dict[str, object] = {"model": self._slot}
        if self._shadow is not None:
            value |= {"shadow": self._shadow, "share": self._share}
        files.replace(self._file, json.dumps(value).encode())

    async def _start(self) -> None:
        assert self._arguments is not None
        self._before = None
        # No shell, and the arguments are the owner's own.
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "fedlearn", "infer", str(self._file)),
            *self._arguments,
            stdin=asyncio.subprocess.DEVNULL,
        )

    def _ready(self) -> list[ServingEvent]:
        self._is_ready = True
        self._pause_s = _LEAST_PAUSE_S
        return [ServingEvent("ready", self._slot)]

    def _ended(self, code: int) -> ServingEvent:
        self._process = None
        self._is_ready = False
        self._start_s = time.monotonic() + self._pause_s
        self._pause_s = min(_MOST_PAUSE_S, 2 * self._pause_s)
        reason = f"fedlearn infer ended with code {code}"
        self._say(reason)
        return ServingEvent("ended", reason=reason)

    async def _figures(self) -> list[ServingEvent]:
        """Read the page of figures; it is ready once the page says its version."""
        assert self._release is not None
        try:
            text = await asyncio.wait_for(_get(self._socket), _PAGE_S)
            page = page_of(text)
        # Not up yet, or too busy to answer: its silence is the machine's to judge.
        except (OSError, ValueError, KeyError, asyncio.TimeoutError):
            return []
        if page.version != str(self._release.counter):
            return []
        if not self._is_ready or self._before is None:
            self._before = page
            return self._ready()
        return [ServingEvent("figures", figures=page.since(self._before))]


def with_socket(folder: Path, arguments: Sequence[str]) -> tuple[tuple[str, ...], Path]:
    """Return arguments of ``fedlearn infer`` by which it has a Unix socket, and its path.

    The agent reads figures there, whoever else may ask and by which certificates.
    """
    options = {}
    for place, argument in enumerate(arguments):
        name, sign, value = argument.partition("=")
        following = arguments[place + 1] if place + 1 < len(arguments) else ""
        options[name] = value if sign else following
    if options.get("--unix"):
        return tuple(arguments), Path(options["--unix"])
    # It is in place of a port, unless both are asked for.
    port = () if "--port" in options else ("--port", str(_PORT))
    path = folder / SOCKET_FILE
    if len(os.fsencode(path)) > _MOST_SOCKET_BYTES:
        path = Path(tempfile.mkdtemp(prefix="fedlearn-")) / SOCKET_FILE
    return (*arguments, *port, "--unix", str(path)), path


async def _get(path: Path) -> str:
    """Return the page of figures of what listens on a socket. Raises OSError."""
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(
            b"GET /metrics HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n"
        )
        answer = await reader.read(_PAGE_BYTES)
        while part := await reader.read(_PAGE_BYTES):
            answer += part
        return answer.decode(errors="replace")
    finally:
        writer.close()
