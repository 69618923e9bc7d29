"""A small record that changes often: its newest version counts, and is on the disk.

Each version is a line at the end of the file, which takes one sync; replacing a file takes two
and a rename. The file is written anew when it is opened, and when it has grown.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedlearn.errors import RecordError
from fedlearn.system import files
from fedlearn.system.checksum import crc32

# Of a file with versions that no longer count.
MOST_BYTES = 1 << 20


class Newest:
    """A JSON object on the disk; one process has the file at a time."""

    def __init__(self, path: Path) -> None:
        """Read a file, or begin one.

        value: the newest version; None: there is none. Raises RecordError for a file
        without any whole version, and OSError.
        """
        self._path = path
        self.value: dict[str, Any] | None = None
        self._file = -1
        if path.exists():
            self.value = _newest(path)
            self._begin(self.value)

    def write(self, value: Mapping[str, Any]) -> None:
        """Store a version; it is on the disk when this returns. Raises OSError."""
        self.value = dict(value)
        if self._file < 0 or os.fstat(self._file).st_size > MOST_BYTES:
            self._begin(self.value)
            return
        # A line that was not whole is followed by this one, and both are read.
        data = b"\n" + _line(self.value)
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view) :]
        os.fsync(self._file)

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _begin(self, value: Mapping[str, Any]) -> None:
        self.close()
        files.replace(self._path, _line(value))
        self._file = files.private(self._path, os.O_WRONLY | os.O_APPEND)


def _line(value: Mapping[str, Any]) -> bytes:
    text = json.dumps(value, separators=(",", ":")).encode()
    return b"%08x %b\n" % (crc32(text), text)


def _newest(path: Path) -> dict[str, Any]:
    for line in reversed(path.read_bytes().splitlines()):
        text = line[9:]
        # What a power cut left half written is a version that nobody was promised.
        if text and line[:8] == b"%08x" % crc32(text):
            value: dict[str, Any] = json.loads(text)
            return value
    raise RecordError(f"'{path}' is damaged; remove it to begin anew")
