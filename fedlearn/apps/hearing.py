"""What an app prints and logs, in its server and in its workers: heard, and kept in a file."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from fedlearn.apps import private
from fedlearn.system import files

LOG_FILE = "app.log"

# Colours of terminals, which a file need not have.
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class Hearing:
    """The log of an app: what it prints goes into a file, and on to the terminal."""

    def __init__(self, folder: Path, quiet: bool) -> None:
        """Open the log of a run's folder; quiet: nothing goes on to the terminal."""
        self._file = open(  # noqa: SIM115
            folder / LOG_FILE, "ab", buffering=0, opener=files.private
        )
        self._terminal: TextIO | None = None if quiet else sys.stdout
        # Reentrant: what an app's signal handler prints comes in between.
        self._lock = threading.RLock()
        # Whether no line of progress stands on the terminal.
        self._wiped = True
        read_end, write_end = os.pipe()
        # What the workers' standard output is.
        self.pipe: BinaryIO = open(write_end, "wb", buffering=0)  # noqa: SIM115
        self._reader = open(read_end, encoding="utf-8", errors="replace")  # noqa: SIM115
        # Daemon: what the app left running may hold its end of the pipe open.
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def write(self, text: str) -> None:
        """Write a text of the app."""
        # Workers and the server write at once: a line stays one line.
        plain = _COLOUR.sub("", text)
        with self._lock:
            # A full disk costs the log, not the run.
            with contextlib.suppress(OSError):
                self._file.write(plain.encode("utf-8", "replace"))
            self._show(plain)

    def show(self, line: str) -> None:
        """Show a line of ours, which is not the app's, on the terminal."""
        with self._lock:
            self._show(f"{line}\n")

    def progress(self, text: str) -> None:
        """Show a line that the next one replaces, on a terminal; "": none."""
        with self._lock:
            if self._terminal is None or not _is_terminal(self._terminal):
                return
            self._show("")
            if text:
                self._wiped = False
                self._put(text)

    def _show(self, text: str) -> None:
        if not self._wiped:
            # To the line's begin, and all after it away.
            self._put("\r\x1b[K")
            self._wiped = True
        self._put(text)

    def _put(self, text: str) -> None:
        if self._terminal is None:
            return
        try:
            self._terminal.write(text)
            self._terminal.flush()
        # Whoever read it has gone, or the app has closed it: that costs the view, not the run.
        except (OSError, ValueError):
            self._terminal = None

    @contextlib.contextmanager
    def server(self) -> Iterator[None]:
        """Hear what this process prints inside the block, and Flower's log of it."""
        # Seen as a text file by whoever prints.
        ear = _Ear(self)
        with (
            contextlib.redirect_stdout(ear),
            contextlib.redirect_stderr(ear),
            private.heard(ear),
        ):
            yield

    def close(self) -> None:
        """Hear the workers out, which have ended, and close the file."""
        self.pipe.close()
        # A process that the app left behind may hold the pipe: it is not waited for.
        self._thread.join(timeout=2)
        self._file.close()

    def fileno(self) -> int:
        """Return the log's descriptor, for processes that an app gives its stream."""
        return self._file.fileno()

    def _listen(self) -> None:
        with self._reader:
            for line in self._reader:
                self.write(line)


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    # A closed one.
    except ValueError:
        return False


class _Ear(io.TextIOBase):
    """A standard stream that writes into a log."""

    encoding = "utf-8"
    errors = "replace"

    def __init__(self, hearing: Hearing) -> None:
        self._hearing = hearing
        self.buffer = _ByteEar(hearing)

    def write(self, text: str) -> int:
        """Write a text and return its length."""
        if text:
            self._hearing.write(text)
        return len(text)

    def writable(self) -> bool:
        """Return True."""
        return True

    def fileno(self) -> int:
        """Return the log's descriptor."""
        return self._hearing.fileno()

    def close(self) -> None:
        """Do nothing: an app that closes its standard stream closes none of ours."""

    def reconfigure(self, **options: object) -> None:
        """Do nothing: all is written at once, in UTF-8."""


class _ByteEar(io.RawIOBase):
    """The bytes below a standard stream."""

    def __init__(self, hearing: Hearing) -> None:
        self._hearing = hearing

    def write(self, data: Any) -> int:
        """Write bytes and return their number."""
        self._hearing.write(bytes(data).decode("utf-8", "replace"))
        return len(data)

    def writable(self) -> bool:
        """Return True."""
        return True

    def close(self) -> None:
        """Do nothing, as the stream above does."""
