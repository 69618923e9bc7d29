"""How plots look: one style, colours that also differ as greys, and lines that differ without colour."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlearn.errors import RecordError
from fedlearn.reporting.units import bytes_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours ("Color Universal Design", 2008), ordered so that neighbours differ in lightness too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#B8860B", "#000000")
DASHES: tuple[Any, ...] = (
    "-",
    (0, (6, 2)),
    (0, (2, 1.5)),
    (0, (6, 2, 1.5, 2)),
    (0, (10, 3)),
    (0, (4, 1, 1, 1, 1, 1)),
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK, FAINT = "#1f2937", "#6b7280"

SETTINGS: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 12,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#9ca3af",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e5e7eb",
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "lines.linewidth": 1.9,
    "lines.markersize": 5,
    "legend.frameon": False,
    "hatch.linewidth": 0.7,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 0.12,  # inches around the axes
    "figure.constrained_layout.h_pad": 0.12,
}


@contextmanager
def canvas(
    path: Path, title: str, height: float = 4.2, rows: int = 1, **grid: Any
) -> Iterator[tuple[Figure, Any]]:
    """Give a figure and its axes in the house style, and write it to a PNG file (150 dots per inch) at the end.
    Raises RecordError when it cannot be written.

    height: inches; the width is always 7.2. grid: further arguments of ``Figure.subplots``. Nothing global is changed.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(SETTINGS):
        figure = Figure(figsize=(7.2, height), dpi=150, facecolor="white")
        axes = figure.subplots(rows, 1, **grid)
        (axes if rows == 1 else axes[0]).set_title(title)
        yield figure, axes
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path)
        except OSError as error:
            raise RecordError(
                f"cannot write the plot '{path}': {error.strerror or error}"
            ) from error


def line_style(position: int, points: int) -> dict[str, Any]:
    """Return colour, dashes and markers of the line at a position; about twenty markers however many points."""
    return {
        "color": COLOURS[position % len(COLOURS)],
        "linestyle": DASHES[position % len(DASHES)],
        "marker": MARKERS[position % len(MARKERS)],
        "markevery": max(1, points // 20),
        "markerfacecolor": "white",
        "markeredgewidth": 1.4,
    }


def round_axis(axes: Axes) -> None:
    """Label the horizontal axis with whole round numbers."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("round")
    axes.xaxis.set_major_locator(
        MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10])
    )


def bytes_axis(axes: Axes, values: list[float]) -> None:
    """Label the horizontal axis with bytes, logarithmic when the positive values span more than two decades."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    positive = [value for value in values if value > 0]
    if positive and max(positive) / min(positive) > 100:
        axes.set_xscale("log", nonpositive="mask")
        axes.xaxis.set_major_locator(
            LogLocator(subs=(1, 2, 5) if max(positive) / min(positive) < 1000 else (1,))
        )
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: re.sub(r"\.0+ ", " ", bytes_text(value)))
    )
    axes.set_xlabel("bytes exchanged so far, up and down")


def percent_axis(axes: Axes, label: str = "accuracy") -> None:
    """Label the vertical axis with percentages."""
    from matplotlib.ticker import FuncFormatter

    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{100 * value:.4g} %")
    )
    axes.set_ylabel(label)


def literal(text: str, most: int = 34) -> str:
    """Return a text that matplotlib shows as it is: no formulas between dollars, not hidden by a leading "_"."""
    shown = (text if len(text) <= most else text[: most - 1] + "…").replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown
