"""The process that serves a device's model: started, watched and stopped by the agent.

`serving.json` in the folder of the slots names the slot that is served; ``fedlearn infer``
follows it without a dropped request. The file is derived: what counts is the record.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fedlearn.clients.installed import Slot
from fedlearn.exchange.releases import ReleaseId, WatchFigures
from fedlearn.system import files

SERVING_FILE = "serving.json"

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

# A line of Prometheus' text: name, labels, value.
_SAMPLE = re.compile(r"^fedlearn_infer_(\w+)(?:\{([^}]*)\})? (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')

# Codes of answers that are the server's fault, besides those of HTTP from 500 on.
_FAULTS = {"INTERNAL", "UNKNOWN", "UNAVAILABLE", "RESOURCE_EXHAUSTED"}


@dataclass(frozen=True)
class ServingEvent:
    """What became of the process."""

    kind: Literal["ready", "figures", "ended"]
    slot: Slot | None = None
    figures: WatchFigures = field(default_factory=WatchFigures)
    reason: str = ""


@dataclass(frozen=True)
class ServingPage:
    """What the page of figures says since the process began.

    requests, failed: answers, and those that are the server's fault. buckets: upper bound of
    a latency in seconds → answers below.
    """

    version: str
    requests: int
    failed: int
    buckets: Mapping[float, int]

    def since(self, before: ServingPage) -> WatchFigures:
        """Return the figures since an earlier page of the same process."""
        requests = self.requests - before.requests
        if requests <= 0:
            return WatchFigures()
        errors = (self.failed - before.failed) / requests
        counts = {
            bound: count - before.buckets.get(bound, 0)
            for bound, count in self.buckets.items()
        }
        return WatchFigures(requests, errors, 1000 * _percentile(counts, 0.99))


def page_of(text: str) -> ServingPage:
    """Return what a page of Prometheus' text says. Raises ValueError."""
    version = ""
    requests = 0
    failed = 0
    buckets = {}
    for name, label_text, value in _SAMPLE.findall(text):
        labels = dict(_LABEL.findall(label_text))
        if name == "version":
            version = labels["version"]
        elif name == "requests_total":
            count = int(float(value))
            requests += count
            failed += count if _is_fault(labels["code"]) else 0
        elif name == "latency_seconds_bucket":
            buckets[float(labels["le"])] = int(float(value))
    return ServingPage(version, requests, failed, buckets)


class ServingProcess:
    """See the module. `want` says what is to be served, and `look` sees to it."""

    def __init__(
        self, folder: Path, arguments: Sequence[str] | None, say: Callable[[str], None]
    ) -> None:
        """Take the folder of the slots. arguments: of ``fedlearn infer``, None: not here."""
        self._file = folder / SERVING_FILE
        self._arguments = arguments
        self._say = say
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

    def want(self, slot: Slot | None, release: ReleaseId | None) -> None:
        """Take what is to be served; the same again changes nothing, unless it ended."""
        if (slot, release) == (self._slot, self._release) and self._is_ready:
            return
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
        data = json.dumps({"model": self._slot}).encode()
        files.replace(self._file, data)

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
        assert self._release is not None and self._arguments is not None
        try:
            text = await asyncio.wait_for(_get(self._arguments), _PAGE_S)
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


async def _get(arguments: Sequence[str]) -> str:
    """Return the page of figures of a process with these arguments. Raises OSError."""
    options = dict(zip(arguments[::2], arguments[1::2], strict=False))
    if "--unix" in options:
        reader, writer = await asyncio.open_unix_connection(options["--unix"])
    else:
        host = options.get("--host", "127.0.0.1")
        port = int(options.get("--port", "8000"))
        reader, writer = await asyncio.open_connection(host, port)
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


def _percentile(counts: Mapping[float, int], share: float) -> float:
    """Return the upper bound below which a share of all lies; counts: cumulative."""
    total = max(counts.values(), default=0)
    finite = [bound for bound in counts if bound != float("inf")]
    for bound in sorted(finite):
        if counts[bound] >= share * total:
            return bound
    # Slower than all that is told apart.
    return 10 * max(finite, default=0.0)


def _is_fault(code: str) -> bool:
    return code in _FAULTS or (code.isdecimal() and int(code) >= 500)
