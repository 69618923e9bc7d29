"""The progress display of a notebook: one table that updates, in the cell that runs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from fedlearn.records.reading import finite
from fedlearn.reporting.html import Html, element, table
from fedlearn.reporting.tally import RunTally, facts_text
from fedlearn.reporting.units import bytes_text, number_text, percent_text, time_text

# The table is sent to the browser, so ten times a second would be felt there.
REDRAW_S = 0.5

# Rounds that the table shows, the latest last.
ROUNDS_SHOWN = 8

HEADINGS = ["round", "accuracy", "best", "loss", "bytes", "time", "left"]


def in_notebook() -> bool:
    """Return whether this process runs a notebook's cells, without importing IPython."""
    try:
        # IPython puts the function among the builtins of the code that it runs.
        shell = get_ipython()  # type: ignore[name-defined]
    except NameError:
        return False
    # IPython in a terminal has the function, but no kernel.
    return hasattr(shell, "kernel")


class NotebookDisplay:
    """A table of the latest rounds, redrawn in place at most twice a second."""

    def __init__(self, facts: Mapping[str, Any], tally: RunTally) -> None:
        """Show what the run is, and an empty table."""
        from IPython.display import HTML, display

        self._html: Any = HTML
        self._tally = tally
        self._title = f"fedlearn: {facts.get('name', '')}"
        self._facts = [f"{key} {value}" for key, value in facts_text(facts)]
        self._rows: list[list[str]] = []
        self._notes: list[str] = []
        self._started_s = time.monotonic()
        self._drawn_s = 0.0
        self._handle: Any = display(  # type: ignore[no-untyped-call]
            self._page(), display_id=True
        )

    def moved(self, round_ended: bool) -> None:
        """Redraw the table, if it is time."""
        if round_ended:
            self._rows.append(self._row())
            del self._rows[:-ROUNDS_SHOWN]
        now_s = time.monotonic()
        last = self._tally.round >= self._tally.rounds
        if now_s - self._drawn_s >= REDRAW_S or (round_ended and last):
            self._draw()

    def note(self, text: str) -> None:
        """Add a warning below the table."""
        self._notes.append(text)
        self._draw()

    def finish(self, rows: list[tuple[str, str]], title: str, good: bool) -> None:
        """Show the closing figures below the table; the title says whether it ended well."""
        self._notes += [title, *(f"{name}: {value}" for name, value in rows)]
        self._draw()

    def stop(self) -> None:
        """Show the table as it stands."""
        self._draw()

    def _draw(self) -> None:
        self._drawn_s = time.monotonic()
        self._handle.update(self._page())

    def _page(self) -> Any:
        tally = self._tally
        clients = ""
        if tally.clients_total and tally.round < tally.rounds:
            progress = f"{tally.clients_done} of {tally.clients_total} clients"
            clients = f"round {tally.round + 1}: {progress}"
        page = element(
            "div",
            element("strong", self._title),
            _lines(self._facts),
            table(HEADINGS, self._rows),
            _lines([clients, *self._notes]),
        )
        return self._html(str(page))

    def _row(self) -> list[str]:
        tally = self._tally
        line = tally.latest[-1]
        return [
            f"{tally.round}/{tally.rounds}",
            percent_text(finite(line, "accuracy")),
            percent_text(tally.best),
            number_text(tally.loss),
            bytes_text(tally.bytes_total),
            time_text(time.monotonic() - self._started_s),
            time_text(tally.seconds_left()),
        ]


def _lines(texts: list[str]) -> Html:
    """Return texts as HTML, one a line, without the empty ones."""
    divs = [element("div", text) for text in texts if text]
    return element("div", *divs)
