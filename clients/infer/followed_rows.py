"""A table that grows: each row of numbers is a sample, taken once, over restarts too."""

from __future__ import annotations

import csv
import os
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from fedlearn.clients.infer.arrivals import Arrival, Kind, key_of
from fedlearn.clients.infer.newest import Newest
from fedlearn.clients.infer.tensors import Array
from fedlearn.errors import DataError, UserError
from fedlearn.text import is_number, shortened

# Seconds between two looks at a file's end.
PAUSE_S = 0.5

# A row that is longer is no row of numbers of a model on a board.
_LINE_BYTES = 64 << 20


class FollowedRows:
    """The rows of a .csv file from the one on that is not answered yet."""

    def __init__(
        self, path: Path, state: Path, follows: bool, stopping: threading.Event
    ) -> None:
        """Open a file; raises UserError where there is none.

        state: a folder of this stream alone. follows: wait for more rows.
        """
        self._path = path.resolve()
        self._position = Newest(state / "position")
        self._follows = follows
        self._stopping = stopping
        # Which file of this name it is, and where its next row begins.
        self._number = 0
        self._next_offset = 0
        self._next_row = 0
        self._last_keys: set[str] = set()
        self._is_at_end = False
        try:
            self._file = open(path, "rb")  # noqa: SIM115
        except OSError as error:
            raise UserError(f"'{path}' cannot be read: {error.strerror}") from None
        self._inode = os.fstat(self._file.fileno()).st_ino
        self._read_position()

    @property
    def is_over(self) -> bool:
        """Tell whether nothing more will come."""
        return self._is_at_end and not self._follows

    def take(self, most: int) -> list[Arrival]:
        """Return new rows; raises UserError where the file has gone."""
        self._look()
        arrivals: list[Arrival] = []
        self._file.seek(self._next_offset)
        while len(arrivals) < most:
            line = self._file.readline(_LINE_BYTES)
            # Who writes the file may be in the middle of this row.
            if not line or (self._follows and not line.endswith(b"\n")):
                self._is_at_end = True
                break
            self._next_offset += len(line)
            arrival = self._arrival(line)
            if arrival is not None:
                arrivals.append(arrival)
        if not arrivals and self._follows:
            self._stopping.wait(PAUSE_S)
        return arrivals

    def note(self, arrivals: Sequence[Arrival]) -> None:
        """Note rows as answered: all that was taken."""
        self._last_keys = {arrival.key for arrival in arrivals}
        self._position.write(
            {
                "number": self._number,
                "inode": self._inode,
                "offset": self._next_offset,
                "row": self._next_row,
                "keys": sorted(self._last_keys),
            }
        )

    def is_noted(self, key: str) -> bool:
        """Tell whether a row of the last group is noted."""
        return key in self._last_keys

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        self._position.close()

    def _read_position(self) -> None:
        position = self._position.value
        if position is None:
            return
        self._number = position["number"]
        self._last_keys = set(position["keys"])
        self._next_offset = position["offset"]
        self._next_row = position["row"]
        is_same = position["inode"] == self._inode
        if not is_same or os.fstat(self._file.fileno()).st_size < self._next_offset:
            self._begin_anew()

    def _look(self) -> None:
        """Begin anew where the file was replaced, as a rotation of logs does."""
        try:
            status = os.stat(self._path)
        except OSError as error:
            # Between two files of a rotation there may be none for a moment.
            if self._follows and isinstance(error, FileNotFoundError):
                return
            raise UserError(f"'{self._path}': {error.strerror}") from None
        is_same = status.st_ino == self._inode and status.st_size >= self._next_offset
        # What is left of the file before comes first.
        if is_same or (self._has_more() and status.st_ino != self._inode):
            return
        self._file.close()
        self._file = open(self._path, "rb")  # noqa: SIM115
        self._inode = os.fstat(self._file.fileno()).st_ino
        self._begin_anew()

    def _has_more(self) -> bool:
        return os.fstat(self._file.fileno()).st_size > self._next_offset

    def _begin_anew(self) -> None:
        self._number += 1
        self._next_offset = 0
        self._next_row = 0

    def _arrival(self, line: bytes) -> Arrival | None:
        """Return the sample of a line; None: it is empty, or the names of the columns."""
        text = line.decode(errors="replace").strip()
        row = next(csv.reader([text]), [])
        is_first = self._next_offset == len(line)
        if not row or (is_first and not is_number(row[0])):
            return None
        name = str(self._next_row)
        key = key_of(self._path, self._number, self._next_row)
        self._next_row += 1
        return Arrival(name, key, time.time(), Kind.NUMBERS, partial(_numbers, row))


def _numbers(row: list[str]) -> Array:
    for cell in row:
        if not is_number(cell):
            raise DataError(f"'{shortened(cell, 40)}' is no number")
    return np.array(row, np.float64)
