"""A folder as a camera: each new file is a sample, taken once, over restarts too."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from fedlearn.clients.infer import png
from fedlearn.clients.infer.arrivals import Arrival, Kind, key_of
from fedlearn.clients.infer.ledger import Ledger
from fedlearn.clients.infer.pictures import SUFFIXES as PICTURES
from fedlearn.clients.infer.pictures import read_picture
from fedlearn.data.stored import read_npy
from fedlearn.errors import UserError

_ARRAYS = (".npy",)

# Seconds between two looks, and what share of the time looking may take: a folder of a
# hundred thousand files takes 0.1 s to look at.
PAUSE_S = 0.5
_SHARE = 0.1
_LONGEST_PAUSE_S = 10.0

# A file's name, bytes, and the moment of its last change.
_Stamp = tuple[str, int, int]


class FollowedFolder:
    """The files of a folder that are new, in the order in which people count."""

    def __init__(
        self, folder: Path, state: Path, follows: bool, stopping: threading.Event
    ) -> None:
        """Look at a folder; raises UserError where there is none.

        state: a folder of this stream alone. follows: wait for more files, whose writers
        may not be done: a file is taken when it is the same in two looks.
        """
        if not folder.is_dir():
            raise UserError(f"there is no folder '{folder}'")
        self._folder = folder.resolve()
        self._ledger = Ledger(state / "ledger")
        self._follows = follows
        self._stopping = stopping
        self._ready: deque[_Stamp] = deque()
        self._before: set[_Stamp] = set()
        self._pause_s = 0.0
        self._has_looked = False

    @property
    def is_over(self) -> bool:
        """Tell whether nothing more will come."""
        return self._has_looked and not self._ready and not self._follows

    def take(self, most: int) -> list[Arrival]:
        """Return new files; raises UserError where the folder has gone."""
        if not self._ready:
            # Not before the first look: what lies there already is not waited for.
            self._stopping.wait(self._pause_s)
            self._look()
        count = min(most, len(self._ready))
        return [self._arrival(self._ready.popleft()) for _ in range(count)]

    def note(self, arrivals: Sequence[Arrival]) -> None:
        """Note files as answered; they are not taken again unless they change."""
        self._ledger.add(arrival.key for arrival in arrivals)

    def is_noted(self, key: str) -> bool:
        """Tell whether a file is noted."""
        return key in self._ledger

    def close(self) -> None:
        """Close the ledger."""
        self._ledger.close()

    def _look(self) -> None:
        begin = time.monotonic()
        try:
            stamps = self._stamps()
        except OSError as error:
            raise UserError(
                f"'{self._folder}' cannot be read: {error.strerror}"
            ) from None
        if not self._has_looked:
            self._ledger.keep({self._key(stamp) for stamp in stamps})
        fresh = {stamp for stamp in stamps if self._key(stamp) not in self._ledger}
        ready = fresh
        if self._follows:
            ready = fresh & self._before
        self._before = fresh - ready
        self._has_looked = True
        self._ready.extend(sorted(ready, key=lambda stamp: png.natural_order(stamp[0])))
        duration_s = time.monotonic() - begin
        self._pause_s = min(max(PAUSE_S, duration_s / _SHARE), _LONGEST_PAUSE_S)

    def _stamps(self) -> list[_Stamp]:
        stamps = []
        with os.scandir(self._folder) as entries:
            for entry in entries:
                name = entry.name
                # Hidden files are those that others are still writing.
                is_sample = Path(name).suffix.lower() in (*PICTURES, *_ARRAYS)
                if not is_sample or name.startswith(".") or not name.isprintable():
                    continue
                try:
                    status = entry.stat()
                # A file may go while the folder is read.
                except FileNotFoundError:
                    continue
                stamps.append((name, status.st_size, status.st_mtime_ns))
        return stamps

    def _key(self, stamp: _Stamp) -> str:
        return key_of(self._folder, *stamp)

    def _arrival(self, stamp: _Stamp) -> Arrival:
        name = stamp[0]
        path = self._folder / name
        if path.suffix.lower() in _ARRAYS:
            kind = Kind.ARRAY
            read = partial(read_npy, path)
        else:
            kind = Kind.PICTURE
            read = partial(read_picture, path)
        return Arrival(name, self._key(stamp), time.time(), kind, read)
