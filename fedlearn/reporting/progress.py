"""What a person watches while a run goes on: a live display on a terminal, plain lines elsewhere.

A terminal without rich, with TERM=dumb, or with an encoding other than UTF-8 gets plain lines too;
NO_COLOR takes the colours away and leaves the display.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TextIO

from fedlearn.errors import LINE_CHARACTERS
from fedlearn.records.line import Line
from fedlearn.records.names import PAGE_FILE, PLOTS_FOLDER
from fedlearn.records.reading import number
from fedlearn.reporting.baseline import baseline_text
from fedlearn.reporting.notebook import NotebookDisplay, in_notebook
from fedlearn.reporting.results import expectations_of
from fedlearn.reporting.tally import RunTally
from fedlearn.reporting.units import (
    against_raw,
    bytes_text,
    number_text,
    percent_text,
    time_text,
)
from fedlearn.text import shortened


class _Display(Protocol):
    # Something of the tally has changed.
    def moved(self, round_ended: bool) -> None: ...
    def note(self, text: str) -> None: ...
    def finish(self, rows: list[tuple[str, str]], title: str, good: bool) -> None: ...
    def stop(self) -> None: ...


class Progress:
    """The progress of one run, as a context manager; leaving it gives the terminal back.

    No thread is started: the display is redrawn when something happens, at most ten times a second.
    """

    def __init__(self, quiet: bool = False, stream: TextIO | None = None) -> None:
        """Show progress on the stream (standard output when None); quiet: print nothing at all."""
        self._quiet = quiet
        self._stream = stream
        self._display: _Display | None = None
        self._tally = RunTally(0)

    def __enter__(self) -> Self:
        """Return this progress; nothing is printed before `start`."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the terminal back."""
        if self._display:
            self._display.stop()

    def start(self, facts: Mapping[str, Any]) -> None:
        """Show what is run.

        facts: ``name`` and ``rounds`` (int); ``data``, ``model``, ``strategy``, ``codec``,
        ``engine`` as one line of text each, where known; ``lines``: the metrics lines that a
        resumed run already has.
        """
        stream = self._stream or sys.stdout
        # A program started without standard output has None there.
        if self._quiet or stream is None:
            return
        lines = tuple(facts.get("lines", ()))
        self._tally = RunTally(int(facts.get("rounds", 0)), lines)
        self._display = _display_for(stream, facts, self._tally)

    def client_done(self, done: int, total: int) -> None:
        """Show how many clients of the running round have answered, failed ones included."""
        self._tally.clients_done = done
        self._tally.clients_total = total
        if self._display:
            self._display.moved(round_ended=False)

    def round_done(self, line: Line) -> None:
        """Show a finished round: the line that went to metrics.jsonl."""
        self._tally.add(line)
        if self._display:
            self._display.moved(round_ended=True)

    def note(self, text: str) -> None:
        """Show a warning, on one line: it may hold what a user's code says."""
        line = shortened(text, LINE_CHARACTERS)
        if self._display:
            self._display.note(line)
            return
        # Before the run is shown: a loader that sleeps would never get there.
        stream = self._stream or sys.stdout
        if not self._quiet and stream is not None:
            print(f"warning: {line}", file=stream, flush=True)

    def finish(self, summary: Mapping[str, Any], folder: Path) -> None:
        """Show the results: the summary of the run, and where its folder is."""
        if not self._display:
            return
        title = "finished"
        if summary.get("name"):
            title = f"{summary['name']} finished"
        self._display.finish(closing_rows(summary, folder), title, True)

    def interrupted(self, folder: Path, command: str) -> None:
        """Say that the run was stopped, where it is, and the command that continues it."""
        if not self._display:
            return
        rows = [
            ("rounds done", f"{self._tally.round} of {self._tally.rounds}"),
            ("run folder", str(folder)),
            ("continue with", command),
        ]
        self._display.finish(rows, "interrupted", False)


def _display_for(stream: TextIO, facts: Mapping[str, Any], tally: RunTally) -> _Display:
    """Return a table in a notebook, the live display on a terminal, else plain lines."""
    # Asked first, because a notebook's standard output is no terminal: it would get
    # plain lines.
    if in_notebook():
        return NotebookDisplay(facts, tally)
    if _can_be_redrawn(stream):
        try:
            from fedlearn.reporting.live import LiveDisplay
        except ImportError:
            # rich comes with the extra "sim", and not everybody has it.
            pass
        else:
            return LiveDisplay(stream, facts, tally)
    from fedlearn.reporting.lines import LineDisplay

    return LineDisplay(stream, facts, tally)


def _can_be_redrawn(stream: TextIO) -> bool:
    # The display draws with characters that only UTF-8 has.
    encoding = getattr(stream, "encoding", None) or ""
    if encoding.lower().replace("-", "") != "utf8":
        return False
    terminal = os.environ.get("TERM", "").lower()
    return stream.isatty() and terminal not in ("dumb", "unknown")


def closing_rows(summary: Mapping[str, Any], folder: Path) -> list[tuple[str, str]]:
    """Return what the end of a run shows, as (name, text).

    These are its figures, its expectations, its files, and what to do next.
    """
    rows = [
        ("accuracy", _accuracy_text(summary)),
        *_baseline_row(summary),
        ("bytes", _exchange_text(summary)),
        ("time", _time_text(summary)),
        ("model hash", str(summary.get("model_sha256") or "-")),
    ]
    for expectation in expectations_of(summary):
        rows.append(("expected", _expectation_text(expectation)))
    rows.append(("run folder", str(folder)))
    plots = sorted(path.stem for path in (folder / PLOTS_FOLDER).glob("*.png"))
    if plots:
        rows.append(("plots", ", ".join(plots)))
    page = folder / PAGE_FILE
    if page.exists():
        rows.append(("page", str(page)))
    rows.append(("compare", f"fedlearn report {shlex.quote(str(folder))} OTHER_RUN"))
    return rows


def _accuracy_text(summary: Mapping[str, Any]) -> str:
    accuracy = percent_text(number(summary, "accuracy"))
    best = percent_text(number(summary, "best_accuracy"))
    loss = number_text(number(summary, "loss"))
    return f"{accuracy}, best {best}, loss {loss}"


def _baseline_row(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    text = baseline_text(summary)
    return [("baseline", text)] if text else []


def _exchange_text(summary: Mapping[str, Any]) -> str:
    up = number(summary, "bytes_up") or 0
    down = number(summary, "bytes_down") or 0
    text = f"{bytes_text(up)} up, {bytes_text(down)} down"
    comparison = against_raw(number(summary, "bytes_raw"), up + down)
    if comparison:
        text += f", {comparison}"
    return text


def _time_text(summary: Mapping[str, Any]) -> str:
    total = time_text(number(summary, "seconds"))
    training = time_text(number(summary, "seconds_training"))
    return f"{total}, of which training {training}"


def _expectation_text(expectation: Mapping[str, Any]) -> str:
    name = expectation.get("what")
    bound = expectation.get("wanted")
    reached = expectation.get("got")
    # Loud: in a long log nobody should overlook it.
    verdict = "met" if expectation.get("met") else "NOT MET"
    return f"{name}: wanted {bound}, got {reached}, {verdict}"
