"""Which samples are answered: keys, one a line, on the disk before anybody goes on."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable
from pathlib import Path

from fedlearn.system import files
from fedlearn.system.appending import append

_LINE = re.compile(rb"[0-9a-f]{16}\n")
_LINE_BYTES = 17

# A ledger with so many more keys than samples that are still there is written anew.
_SPARE = 1000


class Ledger:
    """Keys of 16 hex digits; one process has the file at a time."""

    def __init__(self, path: Path) -> None:
        """Read a file, or begin one; a line that was cut off goes. Raises OSError."""
        self._path = path
        self._keys: set[str] = set()
        self._file = files.private(path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
        self._size = self._read()
        files.sync_folder(path.parent)

    def __contains__(self, key: str) -> bool:
        """Tell whether a key is noted."""
        return key in self._keys

    def __len__(self) -> int:
        """Return how many keys there are."""
        return len(self._keys)

    def add(self, keys: Iterable[str]) -> None:
        """Note keys; they are on the disk when this returns. Raises OSError."""
        fresh = [key for key in keys if key not in self._keys]
        data = "".join(f"{key}\n" for key in fresh).encode()
        self._size = append(self._file, self._size, data)
        self._keys.update(fresh)

    def keep(self, keys: Collection[str]) -> None:
        """Forget all keys but these, if that is worth a new file. Raises OSError."""
        if len(self._keys) <= 2 * len(keys) + _SPARE:
            return
        self._keys.intersection_update(keys)
        data = "".join(f"{key}\n" for key in sorted(self._keys)).encode()
        files.replace(self._path, data)
        os.close(self._file)
        self._file = files.private(self._path, os.O_RDWR | os.O_APPEND)
        self._size = len(data)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _read(self) -> int:
        """Learn the keys up to the first damaged line, and cut the others off."""
        data = self._path.read_bytes()
        end = 0
        while _LINE.fullmatch(data[end : end + _LINE_BYTES]):
            self._keys.add(data[end : end + _LINE_BYTES - 1].decode())
            end += _LINE_BYTES
        os.ftruncate(self._file, end)
        return end
