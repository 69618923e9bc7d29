"""The progress display where there is no terminal: one aligned line per round.

Long runs print only some of their rounds.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, TextIO

from fedlearn.records.reading import finite
from fedlearn.reporting.tally import RunTally, facts_text
from fedlearn.reporting.units import (
    bytes_text,
    number_text,
    percent_text,
    ratio_text,
    time_text,
)

# Runs of at most so many rounds print each; longer ones print about so many, and the latest round
# whenever nothing was printed for a while, so that a log shows that the run is alive.
ROUNDS_PRINTED = 20
SILENCE_S = 5.0

# Heading and width of each column, in characters.
COLUMNS = (
    ("round", 11),
    ("accuracy", 9),
    ("best", 9),
    ("loss", 8),
    ("clients", 7),
    ("failed", 6),
    ("up", 8),
    ("down", 8),
    ("vs float32", 10),
    ("time", 12),
    ("left", 12),
)


class LineDisplay:
    """Plain lines, flushed one by one.

    Runs of up to 20 rounds print every round. Longer ones print the first and the last, every
    twentieth part of the rounds (5 %), and a round whenever nothing was printed for 5 seconds.
    Bytes are sums over all rounds so far.
    """

    def __init__(
        self, stream: TextIO, facts: Mapping[str, Any], tally: RunTally
    ) -> None:
        """Print what the run is, and the headings."""
        self._stream: TextIO | None = stream
        self._tally = tally
        # Every so many rounds one is printed: the twentieth part, rounded up.
        self._every = 1
        if tally.rounds > ROUNDS_PRINTED:
            self._every = -(-tally.rounds // ROUNDS_PRINTED)
        self._started_s = time.monotonic()
        self._printed_s = self._started_s
        self._first = True
        self._print(": ".join(["fedlearn", str(facts.get("name", ""))]))
        for key, value in facts_text(facts):
            self._print(f"  {key:<9} {value}")
        headings = [heading.rjust(width) for heading, width in COLUMNS]
        self._print("  ".join(headings))

    def moved(self, round_ended: bool) -> None:
        """Print the round that has just ended, if it is one to print."""
        now_s = time.monotonic()
        if not round_ended or not self._due(now_s):
            return
        self._first = False
        self._printed_s = now_s
        cells: list[str] = []
        for text, (_, width) in zip(self._cells(), COLUMNS, strict=True):
            cells.append(text.rjust(width))
        self._print("  ".join(cells))

    def _due(self, now_s: float) -> bool:
        tally = self._tally
        return (
            self._first
            or tally.round % self._every == 0
            or tally.round >= tally.rounds
            or now_s - self._printed_s >= SILENCE_S
        )

    def note(self, text: str) -> None:
        """Print a warning line."""
        self._print(f"warning: {text}")

    def finish(self, rows: list[tuple[str, str]], title: str, good: bool) -> None:
        """Print the closing figures, one per line; whether the end is good, the title says."""
        self._print(title)
        keys = [key for key, _ in rows]
        width = max(map(len, keys))
        for key, value in rows:
            self._print(f"  {key.ljust(width)}  {value}")

    def stop(self) -> None:
        """Do nothing: every line is already out."""

    def _cells(self) -> list[str]:
        tally = self._tally
        line = tally.latest[-1]
        return [
            f"{tally.round}/{tally.rounds}",
            percent_text(finite(line, "accuracy")),
            percent_text(tally.best),
            number_text(tally.loss),
            str(line.get("clients", "-")),
            str(line.get("failed", "-")),
            bytes_text(tally.bytes_up),
            bytes_text(tally.bytes_down),
            ratio_text(tally.bytes_raw, tally.bytes_total),
            time_text(time.monotonic() - self._started_s),
            time_text(tally.seconds_left()),
        ]

    def _print(self, text: str) -> None:
        if self._stream is None:
            return
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        # A name of a run may have letters that a terminal of this encoding lacks.
        encodable = text.encode(encoding, "replace").decode(encoding)
        try:
            self._stream.write(f"{encodable}\n")
            # Into a pipe or a file, lines would otherwise wait for a full buffer.
            self._stream.flush()
        except OSError:
            # A closed pipe or a full disk behind stdout must not end a run that can go on.
            self._stream = None
