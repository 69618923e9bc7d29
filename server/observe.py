"""What a coordinator writes down of itself: a log with one line per event.

The log must not hold up the exchange nor fill the disk: events wait in a short queue for a
thread that writes them, what finds no room is dropped and counted, and the file is replaced
when it has grown. It is for people and is not needed to go on with a run; the journal is
what a run lives by.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from fedlearn.exchange.keys import Key
from fedlearn.records.names import LOG_FILE, OLD_LOG_FILE
from fedlearn.system.files import private
from fedlearn.text import printable

# Beyond this `fleet.log` becomes `fleet.log.1` and a new one begins, so that both together
# hold 32 MB.
LOG_BYTES = 16 << 20

# Of each of the two files, what `read` looks at.
READ_BYTES = 1 << 20

# Events that may wait to be written; what comes beyond is dropped.
WAITING = 50_000

# Events written at once.
BATCH = 1_000

# Seconds that a log waits at its end for a standard error that nobody reads.
CLOSE_S = 1.0

# Events that tell of an agent what its owner may want to know.
TROUBLE = ("failed", "declined", "late", "refused", "revoked", "turned away")

# What every event has or may have; all else in it are figures.
_FIELDS = ("time", "event", "client", "key", "text")


class Log:
    """The log of one run. Any thread may call it; it never waits and never raises.

    ``lost``: events that were not written.
    """

    def __init__(
        self,
        path: Path | None,
        shown: str = "notes",
        stream: TextIO | None = None,
        most_bytes: int = LOG_BYTES,
    ) -> None:
        """Write to a file, if one is given, and to standard error (or ``stream``).

        shown: what goes there. "notes": what a person needs to know, as text; "text" or
        "json": everything; "nothing".
        """
        self.path = path
        self.shown = shown
        self.most_bytes = most_bytes
        self.lost = 0
        self._stream = stream
        # As far as a line of the log says so.
        self._lost_noted = 0
        # Unbounded in itself: `__call__` looks at the length, and `None` always finds
        # room.
        self._queue: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._file = -1
        # Whoever wrote before us may have been killed in the middle of a line.
        self._torn = True
        self._off = path is None and shown == "nothing"
        self._thread = threading.Thread(target=self._live, name="log", daemon=True)
        if not self._off:
            self._thread.start()

    def __call__(
        self,
        event: str,
        client: int | None = None,
        key: Key | None = None,
        text: str = "",
        **figures: float,
    ) -> None:
        """Note an event: of a client, of a piece of its work, with a reason, figures."""
        if self._off:
            return
        # Dropped, not waited for: the caller is the exchange itself.
        if self._queue.qsize() >= WAITING:
            # Not under a lock: a count that is one too small does no harm to a log.
            self.lost += 1
            return
        entry: dict[str, Any] = {"time": time.time(), "event": event}
        if client is not None:
            entry["client"] = client
        if key is not None:
            entry["key"] = f"{key[0]}/{key[1]}/{key[2]}"
        if text:
            entry["text"] = text
        self._queue.put(entry | figures)

    def note(self, text: str) -> None:
        """Tell what a person needs to know."""
        self("note", text=text)

    def close(self) -> None:
        """Write what waits; a standard error that nobody reads is given up."""
        if not self._off:
            self._queue.put(None)
            self._thread.join(CLOSE_S)

    def _live(self) -> None:
        """Write batches until `close`."""
        going = True
        while going:
            batch = self._next_batch()
            going = None not in batch
            entries = [entry for entry in batch if entry is not None]
            # Read once: other threads may lose more meanwhile.
            lost = self.lost
            if lost > self._lost_noted:
                entries.append(_lines_lost(lost - self._lost_noted))
            try:
                lines = [line(entry) + "\n" for entry in entries]
                self._write("".join(lines).encode())
                # After the write: what was not said now is said by the next batch.
                self._lost_noted = lost
            # The disk is full: what is lost here is no reason to end a run.
            except OSError:
                self.lost += len(entries)
            self._show(entries)
        if self._file >= 0:
            os.close(self._file)

    def _next_batch(self) -> list[dict[str, Any] | None]:
        """Wait for an event, and return it with those that wait behind it."""
        batch = [self._queue.get()]
        while len(batch) < BATCH and not self._queue.empty():
            batch.append(self._queue.get())
        return batch

    def _write(self, data: bytes) -> None:
        """Append lines to the file; raises OSError when a part is not written."""
        if self.path is None or not data:
            return
        if self._file >= 0:
            size = os.fstat(self._file).st_size
            if size + len(data) > self.most_bytes:
                os.close(self._file)
                self._file = -1
                os.replace(self.path, self.path.with_name(f"{self.path.name}.1"))
        if self._file < 0:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._file = private(self.path, flags)
        # A half line is ended, so that it spoils no whole one.
        if self._torn and os.fstat(self._file).st_size:
            data = b"\n" + data
        self._torn = True
        # A short write is a full disk; the rest would be a line without a beginning.
        if os.write(self._file, data) < len(data):
            raise OSError("a part was written")
        self._torn = False

    def _show(self, entries: list[dict[str, Any]]) -> None:
        """Write what is to be shown to standard error."""
        if self.shown == "notes":
            entries = [entry for entry in entries if entry["event"] == "note"]
        elif self.shown == "nothing":
            return
        stream = self._stream or sys.stderr
        # Python has no standard error where its file is closed at the start.
        if not entries or stream is None:
            return
        lines = [self._shown_line(entry) + "\n" for entry in entries]
        # A closed pipe or a file that was closed: nobody reads, and the run goes on.
        with contextlib.suppress(OSError, ValueError):
            stream.write("".join(lines))
            stream.flush()

    def _shown_line(self, entry: Mapping[str, Any]) -> str:
        if self.shown == "json":
            return line(entry)
        if self.shown == "notes":
            return f"fedlearn: {printable(entry['text'])}"
        return text(entry)


def _lines_lost(count: int) -> dict[str, Any]:
    """Return the event that says how many events are missing."""
    words = f"{count} lines of this log"
    return {"time": time.time(), "event": "lost", "text": words}


def line(entry: Mapping[str, Any]) -> str:
    """Return an event as one line of JSON; its time is UTC."""
    seconds = entry["time"]
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    milliseconds = int(seconds * 1000) % 1000
    return json.dumps(
        {**entry, "time": f"{moment}.{milliseconds:03d}Z"}, allow_nan=False
    )


def text(entry: Mapping[str, Any]) -> str:
    """Return an event as one line for people; its time is local."""
    moment = time.strftime("%H:%M:%S", time.localtime(entry["time"]))
    parts = [moment, f"{entry['event']:<12}"]
    if "client" in entry:
        parts.append(f"client {entry['client']}")
    parts.append(entry.get("key", ""))
    for name, value in entry.items():
        if name not in _FIELDS:
            parts.append(f"{name}={value}")
    parts.append(printable(entry.get("text", "")))
    return " ".join(part for part in parts if part)


def read(folder: Path, most_bytes: int = READ_BYTES) -> list[dict[str, Any]]:
    """Return the events at the end of a run's log, oldest first.

    most_bytes: of each of its two files.
    """
    older = _entries(folder / OLD_LOG_FILE, most_bytes)
    return [*older, *_entries(folder / LOG_FILE, most_bytes)]


def _entries(path: Path, most_bytes: int) -> Iterator[dict[str, Any]]:
    """Yield the events at the end of a file; none for a file that cannot be read."""
    try:
        with path.open("rb") as file:
            # From the end: the newest events are looked for, and the file may be long.
            file.seek(max(0, os.fstat(file.fileno()).st_size - most_bytes))
            lines = file.read(most_bytes).split(b"\n")
    except OSError:
        return
    for row in lines:
        # The first may be half, and any may be torn.
        with contextlib.suppress(ValueError, RecursionError):
            entry = json.loads(row)
            if isinstance(entry, dict) and isinstance(entry.get("event"), str):
                yield entry
