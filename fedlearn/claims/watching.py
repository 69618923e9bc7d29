"""What a person sees while claims are run: starts, ends, and how far each run is."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping
from typing import TextIO

from fedlearn.claims.runs import PlannedRun
from fedlearn.records.writing import read_lines
from fedlearn.reporting.tally import RunTally
from fedlearn.reporting.units import percent_text, time_text

# Seconds between two reports of how far the runs are. On a terminal one line is written
# again and again; elsewhere each report stays.
TERMINAL_S = 1.0
ELSEWHERE_S = 15.0

# To the start of the line, and clear it.
_CLEAR = "\r\x1b[K"


class Watching:
    """The progress of many runs; see `fedlearn.claims.jobs.Watch`."""

    def __init__(
        self,
        numbers: Mapping[str, int],
        total: int,
        quiet: bool = False,
        stream: TextIO | None = None,
    ) -> None:
        """Take each run's number, by its label, and how many there are.

        stream: standard error when None.
        """
        self._numbers = numbers
        self._total = total
        self._quiet = quiet
        self._stream = stream or sys.stderr
        self._live = not quiet and self._stream.isatty()
        self._interval_s = ELSEWHERE_S
        # What goes before a line, so that it takes the place of the live one.
        self._clear = ""
        if self._live:
            self._interval_s = TERMINAL_S
            self._clear = _CLEAR
        # Label → when the run began, and when the last report was.
        self._started: dict[str, float] = {}
        self._looked = time.monotonic()

    def begun(self, run: PlannedRun, resumed: bool) -> None:
        """Say that a run starts, or goes on."""
        self._started.setdefault(run.label, time.monotonic())
        beginning = "goes on" if resumed else "starts"
        self._say(f"{self._name(run)}: {beginning}")

    def look(self, runs: Iterable[PlannedRun]) -> None:
        """Say how far the runs are, if it is time to."""
        now = time.monotonic()
        if self._quiet or now - self._looked < self._interval_s:
            return
        self._looked = now
        reports = [f"{self._name(run)}: {how_far(run)}" for run in runs]
        if self._live:
            line = "   ".join(reports)
            self._write(f"{self._clear}{line}")
            return
        for report in reports:
            self._say(report)

    def ended(self, run: PlannedRun, error: str | None) -> None:
        """Say how a run ended."""
        now = time.monotonic()
        seconds = now - self._started.get(run.label, now)
        end = error or f"done, {how_far(run)}"
        self._say(f"{self._name(run)}: {end}, {time_text(seconds)}")

    def _name(self, run: PlannedRun) -> str:
        number = self._numbers.get(run.label, 0)
        return f"[{number}/{self._total}] {run.label}"

    def _say(self, text: str) -> None:
        """Write a line that stays."""
        if not self._quiet:
            self._write(f"{self._clear}{text}\n")

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:
            # Nobody reads it any more; the runs go on.
            self._quiet = True


def how_far(run: PlannedRun) -> str:
    """Return in words how far a run is: round, best accuracy, and time to go at most."""
    settings = run.experiment.experiment
    tally = RunTally(settings.rounds, tuple(read_lines(run.folder)))
    if not tally.latest:
        return "no round yet"
    progress = f"round {tally.round} of {tally.rounds}, best {percent_text(tally.best)}"
    seconds = tally.seconds_left()
    if run.finished or seconds is None:
        return progress
    time_left = time_text(seconds)
    if settings.stop_at:
        # It ends earlier when its accuracy gets there.
        time_left = f"at most {time_left}"
    return f"{progress}, {time_left} left"
