"""Answers counted by class over a window of time, each once, over restarts too."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from fedlearn.clients.infer.arrivals import key_of
from fedlearn.clients.infer.newest import Newest

Answer = dict[str, Any]


class Tally:
    """Counts on the disk, with the keys of the samples that were counted last.

    Those tell after a crash what was counted, though its source had not noted it.
    """

    def __init__(self, path: Path, window_s: float) -> None:
        """Go on with a file, or begin one; raises RecordError for a damaged one."""
        self._file = Newest(path)
        self._window_s = window_s
        self._since = 0.0
        self._counts: dict[str, int] = {}
        self._errors = 0
        self._version = ""
        self.keys: set[str] = set()
        self._read()

    def add(
        self, answers: Sequence[Answer], keys: Collection[str], version: str
    ) -> None:
        """Count answers; they are on the disk when this returns. Raises OSError.

        keys: of all samples behind them, those that were left out too.
        """
        if not self._since:
            self._since = time.time()
        for answer in answers:
            if "error" in answer:
                self._errors += 1
                continue
            label = answer.get("label", "")
            self._counts[label] = self._counts.get(label, 0) + 1
        self._version = version
        self.keys = set(keys)
        self._write()

    def is_due(self) -> bool:
        """Tell whether the window is over; a clock that was set back ends it too."""
        return bool(self._since) and not (
            0 <= time.time() - self._since < self._window_s
        )

    @property
    def is_empty(self) -> bool:
        """Tell whether nothing is counted."""
        return not self._since

    def answer(self) -> tuple[str, Answer]:
        """Return the window's key and its counts, as an answer of the stream."""
        answer: Answer = {
            "version": self._version,
            "since": moment(self._since),
            "time": moment(time.time()),
            "count": dict(sorted(self._counts.items())),
        }
        if self._errors:
            answer["errors"] = self._errors
        return key_of("count", self._since), answer

    def begin(self) -> None:
        """Begin the next window; raises OSError."""
        self._since = 0.0
        self._counts = {}
        self._errors = 0
        self._write()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _read(self) -> None:
        state = self._file.value
        if state is None:
            return
        self._since = state["since"]
        self._counts = state["counts"]
        self._errors = state["errors"]
        self._version = state["version"]
        self.keys = set(state["keys"])

    def _write(self) -> None:
        self._file.write(
            {
                "since": self._since,
                "counts": self._counts,
                "errors": self._errors,
                "version": self._version,
                "keys": sorted(self.keys),
            }
        )


def moment(time_s: float) -> str:
    """Return a moment (seconds since 1970) as RFC 3339 has it, in UTC with milliseconds."""
    whole_s = int(time_s)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole_s))
    return f"{text}.{int((time_s - whole_s) * 1000):03}Z"
