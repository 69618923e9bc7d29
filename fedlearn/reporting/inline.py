"""What a notebook shows of runs: their figures as a small table, and a plot in the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fedlearn.records.reading import RunRecord
from fedlearn.reporting import style
from fedlearn.reporting.html import element, table
from fedlearn.reporting.results import accuracy_curve, labels, results
from fedlearn.reporting.table import cells
from fedlearn.reporting.units import (
    against_raw,
    bytes_text,
    number_text,
    percent_text,
    time_text,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Inches of a plot in a notebook's cell: two panels side by side.
_WIDTH = 10.0
_HEIGHT = 3.6


def figure(runs: Sequence[RunRecord]) -> Figure:
    """Return a figure of accuracy over rounds, and over bytes, one curve per run."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    # For this figure alone: the user's own plots keep their look.
    with rc_context(style.SETTINGS):
        # Not pyplot's, which stays open: a notebook would show it a second time.
        drawn = Figure(figsize=(_WIDTH, _HEIGHT), facecolor="white")
        over_rounds, over_bytes = drawn.subplots(1, 2)
        all_bytes: list[float] = []
        for position, (run, label) in enumerate(zip(runs, labels(runs), strict=True)):
            curve = accuracy_curve(run.lines)
            look = style.line_style(position, len(curve.rounds))
            over_rounds.plot(curve.rounds, curve.accuracy, label=label, **look)
            over_bytes.plot(curve.bytes_total, curve.accuracy, label=label, **look)
            all_bytes += curve.bytes_total
        over_rounds.set_title("Accuracy over rounds")
        over_bytes.set_title("Accuracy over bytes exchanged")
        style.round_axis(over_rounds)
        style.bytes_axis(over_bytes, all_bytes)
        for axes in (over_rounds, over_bytes):
            style.percent_axis(axes)
            if len(runs) > 1:
                axes.legend(loc="lower right")
    return drawn


def run_html(run: RunRecord) -> str:
    """Return a run as HTML: name, figures, and its plot as an embedded picture."""
    figures = results(run)
    up_and_down = (
        f"{bytes_text(figures.bytes_up)} up, {bytes_text(figures.bytes_down)} down"
    )
    comparison = against_raw(figures.bytes_raw, figures.bytes_total)
    if comparison:
        up_and_down += f", {comparison}"
    accuracy = percent_text(figures.accuracy)
    best = percent_text(figures.best_accuracy)
    rows = [
        ["rounds", f"{figures.rounds}{'' if run.finished else ' (not finished)'}"],
        ["accuracy", f"{accuracy}, best {best} in round {figures.best_round}"],
        ["loss", number_text(figures.loss)],
        ["bytes", up_and_down],
        ["time", time_text(figures.seconds)],
        ["model hash", figures.model_sha256 or "-"],
        ["folder", str(run.folder)],
    ]
    return str(
        element(
            "div",
            element("strong", run.name),
            table(["figure", "value"], rows),
            _picture([run]),
        )
    )


def comparison_html(
    runs: Sequence[RunRecord], rows: Sequence[Mapping[str, Any]], target: float
) -> str:
    """Return runs side by side as HTML: the table of `fedlearn report`, and their curves.

    rows: of `fedlearn.reporting.table.rows`. target: accuracy that is counted to.
    """
    heading, *lines = cells(rows)
    note = f"rounds and bytes to {percent_text(target)} accuracy"
    return str(
        element("div", table(heading, lines), element("p", note), _picture(runs))
    )


def _picture(runs: Sequence[RunRecord]) -> object:
    """Return the plot of runs as an image element, its bytes inside; "" without matplotlib."""
    try:
        drawn = figure(runs)
    # Without the extra's matplotlib the figures are shown all the same.
    except ImportError:
        return ""
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png", dpi=96)
    # Inside the page, because a notebook is one file.
    data = base64.b64encode(buffer.getvalue()).decode()
    return element(
        "img", src=f"data:image/png;base64,{data}", alt="accuracy of the runs"
    )
