"""How plots look: one style, colours that differ as greys too, lines that differ without colour."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlearn.errors import RecordError
from fedlearn.reporting.units import bytes_text
from fedlearn.system import files

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours ("Color Universal Design", 2008), ordered so that neighbours differ in
# lightness too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#B8860B", "#000000")
# Lengths of strokes and gaps in widths of the line, so that a grey print tells lines apart.
DASHES: tuple[Any, ...] = (
    "-",
    (0, (6, 2)),
    (0, (2, 1.5)),
    (0, (6, 2, 1.5, 2)),
    (0, (10, 3)),
    (0, (4, 1, 1, 1, 1, 1)),
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK = "#1f2937"
FAINT = "#6b7280"
# Lines beside the subject: a target, a comparison.
GREY = "#9ca3af"

SETTINGS: Any = {
    # It comes with matplotlib: pictures look alike on every machine.
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 12,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    # The grid lies behind bars and curves.
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
    # Inches around the axes.
    "figure.constrained_layout.w_pad": 0.12,
    "figure.constrained_layout.h_pad": 0.12,
}


# Inches, and dots per inch: a picture is 1,080 dots wide.
WIDTH = 7.2
DPI = 150

# Curves of many points have markers on about so many of them.
MARKERS_SHOWN = 20

# Letters of a name in a legend, at most.
LONGEST_NAME = 34


@contextmanager
def canvas(
    path: Path, title: str, height: float = 4.2, rows: int = 1, **grid: Any
) -> Iterator[tuple[Figure, Any]]:
    """Give a figure and its axes in the house style, and write it to a PNG file at the end.

    height: inches; the width is always 7.2. grid: further arguments of ``Figure.subplots``. Nothing
    global is changed. Raises RecordError when the file cannot be written.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    # pyplot would keep state, and a figure of its own needs none.
    with rc_context(SETTINGS):
        figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor="white")
        axes = figure.subplots(rows, 1, **grid)
        top = axes if rows == 1 else axes[0]
        top.set_title(title)
        yield figure, axes
        # Not reached where drawing failed: half a picture would be worse than none.
        try:
            files.make_folder(path.parent)
            picture = io.BytesIO()
            figure.savefig(picture, format="png")
            mode = files.page_mode(path.parent)
            files.replace(path, picture.getvalue(), mode)
        except OSError as error:
            raise RecordError(
                f"cannot write the plot '{path}': {error.strerror or error}"
            ) from error


def line_style(position: int, points: int) -> dict[str, Any]:
    """Return colour, dashes and markers of the line at a position.

    points: how many the line has; about twenty get a marker.
    """
    return {
        "color": COLOURS[position % len(COLOURS)],
        "linestyle": DASHES[position % len(DASHES)],
        "marker": MARKERS[position % len(MARKERS)],
        "markevery": max(1, points // MARKERS_SHOWN),
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
    """Label the horizontal axis with bytes.

    It is logarithmic when the positive values span more than two decades.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    positive = [value for value in values if value > 0]
    if positive:
        span = max(positive) / min(positive)
        if span > 100:
            # Below three decades, powers of ten alone would be too few ticks.
            steps = (1, 2, 5) if span < 1000 else (1,)
            axes.set_xscale("log", nonpositive="mask")
            axes.xaxis.set_major_locator(LogLocator(subs=steps))
            axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(_bytes_tick))
    axes.set_xlabel("bytes exchanged so far, up and down")


def _bytes_tick(value: float, _: object) -> str:
    """Return a tick's text without zeros after the point: "2 MB" for "2.00 MB"."""
    return re.sub(r"\.0+ ", " ", bytes_text(value))


def percent_axis(axes: Axes, label: str = "accuracy") -> None:
    """Label the vertical axis with percentages."""
    from matplotlib.ticker import FuncFormatter

    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{100 * value:.4g} %")
    )
    axes.set_ylabel(label)


def legend_beside(axes: Axes, upside_down: bool = False) -> None:
    """Put the legend to the right of the axes. upside_down: in the order of stacked bars."""
    handles, names = axes.get_legend_handles_labels()
    if upside_down:
        handles.reverse()
        names.reverse()
    # The anchor is in shares of the axes: the middle of their right side.
    axes.legend(handles, names, loc="center left", bbox_to_anchor=(1.0, 0.5))


def literal(text: str, limit: int = LONGEST_NAME) -> str:
    """Return a text that matplotlib shows as it is, of at most ``limit`` letters.

    Dollars would begin a formula, and a leading "_" would hide it.
    """
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    shown = text.replace("$", r"\$")
    if shown.startswith("_"):
        return f" {shown}"
    return shown
