"""What a person sees while claims are run: a line when a run starts and ends, and how far those are that go on."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping
from typing import TextIO

from fedlearn.claims.runs import Wanted
from fedlearn.records.writing import read_lines
from fedlearn.reporting.tally import RunTally
from fedlearn.reporting.units import percent_text, time_text

TERMINAL_S, ELSEWHERE_S = 1.0, 15.0
"""Seconds between two looks at how far the runs are: on a terminal, where one line is written again and again, and elsewhere."""


class Watching:
    """The progress of many runs; see `fedlearn.claims.jobs.Watch`."""

    def __init__(
        self,
        numbers: Mapping[str, int],
        of: int,
        quiet: bool = False,
        stream: TextIO | None = None,
    ) -> None:
        """Take each run's number, by its label, and how many there are; stream: standard error when None."""
        self._numbers, self._of, self._quiet = numbers, of, quiet
        self._stream = stream or sys.stderr
        self._live = not quiet and self._stream.isatty()
        self._started: dict[str, float] = {}
        self._looked = time.monotonic()

    def begun(self, run: Wanted, resumed: bool) -> None:
        """Say that a run starts, or goes on."""
        self._started.setdefault(run.label, time.monotonic())
        self._say(f"{self._name(run)}: {'goes on' if resumed else 'starts'}")

    def look(self, runs: Iterable[Wanted]) -> None:
        """Say how far the runs are, if it is time to."""
        now = time.monotonic()
        if self._quiet or now - self._looked < (
            TERMINAL_S if self._live else ELSEWHERE_S
        ):
            return
        self._looked = now
        told = [f"{self._name(run)}: {how_far(run)}" for run in runs]
        if self._live:
            self._write(f"\r\x1b[K{'   '.join(told)}")
        else:
            for line in told:
                self._say(line)

    def ended(self, run: Wanted, error: str | None) -> None:
        """Say how a run ended."""
        taken = time_text(
            time.monotonic() - self._started.get(run.label, time.monotonic())
        )
        self._say(f"{self._name(run)}: {error or f'done, {how_far(run)}'}, {taken}")

    def _name(self, run: Wanted) -> str:
        return f"[{self._numbers.get(run.label, 0)}/{self._of}] {run.label}"

    def _say(self, text: str) -> None:
        if not self._quiet:
            self._write(f"\r\x1b[K{text}\n" if self._live else f"{text}\n")

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:  # nobody reads it any more; the runs go on
            self._quiet = True


def how_far(run: Wanted) -> str:
    """Return in words how far a run is: its round, its best accuracy and the time that it may still take."""
    tally = RunTally(run.experiment.experiment.rounds, tuple(read_lines(run.folder)))
    if not tally.latest:
        return "no round yet"
    done = f"round {tally.round} of {tally.rounds}, best {percent_text(tally.best)}"
    if run.finished or tally.seconds_left() is None:
        return done
    most = "at most " if run.experiment.experiment.stop_at else ""
    return f"{done}, {most}{time_text(tally.seconds_left())} left"
