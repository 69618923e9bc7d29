"""The progress display on a terminal, drawn by rich and redrawn on events only.

There is no refreshing thread: worker processes are forked while the display is up, and a lock that
another thread holds at that moment would stay locked in the child for ever.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fedlearn.records.line import Line
from fedlearn.records.reading import amount, finite, number
from fedlearn.reporting.tally import RunTally, facts_text
from fedlearn.reporting.units import (
    MISSING,
    bytes_text,
    number_text,
    percent_text,
    ratio_text,
    time_text,
)

# Redrawing takes at most this share of the time: the interval grows where a redraw is slow.
COST_SHARE = 0.02
INTERVAL_S = 0.1

# Lines of the terminal that the table of rounds must leave: header, bar, figures, the cursor's.
LINES_BESIDE_TABLE = 12

# The sparkline's most characters, and the width that the figures beside it take.
SPARKLINE_WIDTH = 40
FIGURES_WIDTH = 50

LATEST_HEADINGS = (
    "round",
    "accuracy",
    "loss",
    "train loss",
    "clients",
    "failed",
    "up",
    "down",
    "time",
)


class LiveDisplay:
    """A header, a bar, the key figures and the latest rounds, in place."""

    def __init__(
        self, stream: TextIO, facts: Mapping[str, Any], tally: RunTally
    ) -> None:
        """Draw the first frame on the stream, which is a terminal."""
        self._console = Console(file=stream, highlight=False)
        self._facts = facts
        self._tally = tally
        self._started_s = time.monotonic()
        self._redraw_at_s = 0.0
        self._process = os.getpid()
        # Redirection is off: a forked worker would inherit it and redraw this frame.
        self._live = Live(
            self._frame(),
            console=self._console,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start(refresh=True)

    def moved(self, round_ended: bool) -> None:
        """Redraw the frame, unless it was redrawn just before."""
        before_s = time.monotonic()
        # A forked worker has a copy of this display, and must not draw it.
        if before_s < self._redraw_at_s or os.getpid() != self._process:
            return
        self._live.update(self._frame(), refresh=True)
        after_s = time.monotonic()
        pause_s = max(INTERVAL_S, (after_s - before_s) / COST_SHARE)
        self._redraw_at_s = after_s + pause_s

    def note(self, text: str) -> None:
        """Print a warning above the frame."""
        label = Text("warning: ", style="bold yellow")
        # As Text, so that brackets in it are no markup.
        self._console.print(label + Text(text))

    def finish(self, rows: list[tuple[str, str]], title: str, good: bool) -> None:
        """Leave the last frame and print the closing panel below it.

        The panel is green or, when the end is not good, yellow.
        """
        self.stop()
        colour = "green" if good else "yellow"
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for key, value in rows:
            style = "bold" if key == "accuracy" else ""
            table.add_row(key, Text(value, style=style))
        heading = Text(title, style=f"bold {colour}")
        self._console.print(
            Panel(table, title=heading, title_align="left", border_style=colour)
        )

    def stop(self) -> None:
        """Draw the last frame, leave it on the screen and give the terminal back.

        In a forked worker do nothing.
        """
        if self._live.is_started and os.getpid() == self._process:
            # What happened since the last redraw is shown too.
            self._live.update(self._frame())
            self._live.stop()

    def _frame(self) -> RenderableType:
        parts: list[RenderableType] = [self._header(), self._bar(), self._figures()]
        # A frame higher than the terminal would scroll with each redraw.
        room = self._console.height - LINES_BESIDE_TABLE
        if self._tally.latest and room > 0:
            parts.append(self._latest(room))
        return Group(*parts)

    def _header(self) -> RenderableType:
        grid = Table.grid(padding=(0, 2), expand=True)
        grid.add_column(ratio=1)
        grid.add_column(ratio=1)
        pairs = [_pair(key, value, "") for key, value in facts_text(self._facts)]
        # Two facts a line: with five there are three lines, the last one half.
        for position in range(0, len(pairs), 2):
            grid.add_row(*pairs[position : position + 2])
        name = str(self._facts.get("name", "fedlearn"))
        title = Text(name, style="bold")
        return Panel(grid, title=title, title_align="left", border_style="cyan")

    def _bar(self) -> RenderableType:
        tally = self._tally
        grid = Table.grid(padding=(0, 2), expand=True)
        grid.add_column(no_wrap=True)
        grid.add_column(ratio=1)
        grid.add_column(justify="right", no_wrap=True)
        # Clients have answered of the round after the last finished one.
        running = min(tally.round + (tally.clients_total > 0), tally.rounds)
        bar = ProgressBar(
            total=max(tally.rounds, 1), completed=tally.round + tally.share_done()
        )
        grid.add_row(
            Text(f"round {running}/{tally.rounds}", style="bold"),
            bar,
            Text(self._times(), style="cyan"),
        )
        return grid

    def _times(self) -> str:
        left_s = self._tally.seconds_left()
        if left_s is None:
            return ""
        passed_s = time.monotonic() - self._started_s
        return f"{time_text(passed_s)}, {time_text(left_s)} left"

    def _figures(self) -> RenderableType:
        tally = self._tally
        grid = Table.grid(padding=(0, 3))
        grid.add_row(
            _pair("accuracy", percent_text(tally.accuracy)),
            _pair("best", self._best()),
            _pair("loss", number_text(tally.loss)),
        )
        grid.add_row(
            _pair("up", bytes_text(tally.bytes_up)),
            _pair("down", bytes_text(tally.bytes_down)),
            _pair("bytes", self._ratio()),
        )
        width = min(SPARKLINE_WIDTH, self._console.width - FIGURES_WIDTH)
        failed_style = "bold red" if tally.failed else ""
        grid.add_row(
            _pair("clients", self._clients()),
            _pair("failed", str(tally.failed), failed_style),
            Text(tally.sparkline(width), style="cyan"),
        )
        return grid

    def _best(self) -> str:
        tally = self._tally
        if tally.best is None:
            return MISSING
        return f"{percent_text(tally.best)} (round {tally.best_round})"

    def _ratio(self) -> str:
        ratio = ratio_text(self._tally.bytes_raw, self._tally.bytes_total)
        if ratio == MISSING:
            return MISSING
        return f"{ratio} fewer than float32"

    def _clients(self) -> str:
        tally = self._tally
        if not tally.clients_total:
            return MISSING
        return f"{tally.clients_done}/{tally.clients_total}"

    def _latest(self, room: int) -> RenderableType:
        """Return the table of the latest rounds, at most ``room`` of them."""
        table = Table(box=None, header_style="dim", padding=(0, 1), pad_edge=False)
        for heading in LATEST_HEADINGS:
            table.add_column(heading, justify="right", no_wrap=True)
        # The newest at the bottom, as in a log.
        lines = list(self._tally.latest)[-room:]
        for line in lines:
            table.add_row(*_cells(line, self._tally.best))
        return table


def _pair(key: str, value: str, style: str = "bold") -> Text:
    label = Text(f"{key} ", style="dim")
    return label + Text(value, style=style)


def _cells(line: Line, best: float | None) -> list[Text]:
    accuracy = finite(line, "accuracy")
    is_best = accuracy is not None and accuracy == best
    failed = int(amount(line, "failed"))
    accuracy_style = "green" if is_best else ""
    failed_style = "red" if failed else "dim"
    return [
        Text(str(line.get("round"))),
        Text(percent_text(accuracy), style=accuracy_style),
        Text(number_text(number(line, "loss"))),
        Text(number_text(number(line, "train_loss"))),
        Text(str(line.get("clients", MISSING))),
        Text(str(failed), style=failed_style),
        Text(bytes_text(finite(line, "bytes_up"))),
        Text(bytes_text(finite(line, "bytes_down"))),
        Text(time_text(finite(line, "seconds"))),
    ]
