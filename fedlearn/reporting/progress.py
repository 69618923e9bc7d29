"""What a person watches while a run goes on: a live display on a terminal, plain lines elsewhere, or nothing.

A terminal without rich, with TERM=dumb, or with an encoding other than UTF-8 gets plain lines too; NO_COLOR takes the
colours away and leaves the display.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, TextIO

from fedlearn.records.line import Line
from fedlearn.records.names import PAGE_FILE, PLOTS_FOLDER
from fedlearn.records.reading import number
from fedlearn.reporting.tally import RunTally
from fedlearn.reporting.units import (
    against_raw,
    bytes_text,
    number_text,
    percent_text,
    time_text,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


class _Display(Protocol):
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

        facts: ``name`` and ``rounds`` (int); ``data``, ``model``, ``strategy``, ``codec``, ``engine`` as one line of
        text each, where known; ``lines``: the metrics lines that a resumed run already has.
        """
        stream = self._stream or sys.stdout
        if (
            self._quiet or stream is None
        ):  # a program started without standard output has None there
            return
        self._tally = RunTally(
            int(facts.get("rounds", 0)), tuple(facts.get("lines", ()))
        )
        self._display = _display(stream, facts, self._tally)

    def client_done(self, done: int, total: int) -> None:
        """Show how many clients of the running round have answered, failed ones included."""
        self._tally.clients_done, self._tally.clients_total = done, total
        if self._display:
            self._display.moved(round_ended=False)

    def round_done(self, line: Line) -> None:
        """Show a finished round: the line that went to metrics.jsonl."""
        self._tally.add(line)
        if self._display:
            self._display.moved(round_ended=True)

    def note(self, text: str) -> None:
        """Show a warning."""
        if self._display:
            self._display.note(text)

    def finish(self, summary: Mapping[str, Any], folder: Path) -> None:
        """Show the results: the summary of the run, and where its folder is."""
        if self._display:
            name = summary.get("name")
            self._display.finish(
                closing_rows(summary, folder),
                f"{name} finished" if name else "finished",
                True,
            )

    def interrupted(self, folder: Path, command: str) -> None:
        """Say that the run was stopped, where it is, and the command that continues it."""
        if self._display:
            rows = [
                ("rounds done", f"{self._tally.round} of {self._tally.rounds}"),
                ("run folder", str(folder)),
            ]
            self._display.finish(
                [*rows, ("continue with", command)], "interrupted", False
            )


def _display(stream: TextIO, facts: Mapping[str, Any], tally: RunTally) -> _Display:
    utf8 = (getattr(stream, "encoding", None) or "").lower().replace("-", "") == "utf8"
    if (
        stream.isatty()
        and utf8
        and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")
    ):
        try:
            from fedlearn.reporting.live import LiveDisplay
        except ImportError:
            pass
        else:
            return LiveDisplay(stream, facts, tally)
    from fedlearn.reporting.lines import LineDisplay

    return LineDisplay(stream, facts, tally)


def closing_rows(summary: Mapping[str, Any], folder: Path) -> list[tuple[str, str]]:
    """Return what the end of a run shows, as (name, text): figures, expectations, files, and what to do next."""
    up, down = number(summary, "bytes_up") or 0, number(summary, "bytes_down") or 0
    beside = against_raw(number(summary, "bytes_raw"), up + down)
    training = time_text(number(summary, "seconds_training"))
    best = percent_text(number(summary, "best_accuracy"))
    accuracy = percent_text(number(summary, "accuracy"))
    sent = f"{bytes_text(up)} up, {bytes_text(down)} down"
    rows = [
        (
            "accuracy",
            f"{accuracy}, best {best}, loss {number_text(number(summary, 'loss'))}",
        ),
        ("bytes", f"{sent}, {beside}" if beside else sent),
        (
            "time",
            f"{time_text(number(summary, 'seconds'))}, of which training {training}",
        ),
        ("model hash", str(summary.get("model_sha256") or "-")),
        *(("expected", _expectation(found)) for found in _expectations(summary)),
        ("run folder", str(folder)),
    ]
    plots = sorted(path.stem for path in (folder / PLOTS_FOLDER).glob("*.png"))
    if plots:
        rows.append(("plots", ", ".join(plots)))
    if (folder / PAGE_FILE).exists():
        rows.append(("page", str(folder / PAGE_FILE)))
    rows.append(("compare", f"fedlearn report {shlex.quote(str(folder))} OTHER_RUN"))
    return rows


def _expectations(summary: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    found = summary.get("expectations")
    return (
        [item for item in found if isinstance(item, Mapping)]
        if isinstance(found, list)
        else []
    )


def _expectation(found: Mapping[str, Any]) -> str:
    verdict = "met" if found.get("met") else "NOT MET"
    return f"{found.get('what')}: wanted {found.get('wanted')}, got {found.get('got')}, {verdict}"
