"""The picture of a partition: how many samples each client has, and of which labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlearn.records.reading import RunRecord, section
from fedlearn.reporting import style
from fedlearn.reporting.units import count_text

# Up to so many clients, bars have gaps; and up to so many, each has its id below.
GAPS_UP_TO = 60
IDS_UP_TO = 24

# Up to so many labels, each has its own tick.
TICKS_UP_TO = 12


def plot_label_mix(run: RunRecord, path: Path) -> bool:
    """Draw the label mix; without label counts, the sizes of the clients.

    Counts with a single column (K = 1) are sizes only, as for text: they become a histogram. False
    when neither is recorded. Raises RecordError when the picture cannot be written.
    """
    data = section(run.manifest, "data")
    counts = _counts(section(data, "label_counts").get("counts"))
    if counts is None:
        sizes: Any = data.get("sizes")
        if not _is_range(sizes):
            return False
        _plot_range(sizes, path)
    elif counts.shape[1] > 1:
        _plot_mix(counts, path)
    else:
        _plot_histogram(counts[:, 0], path)
    return True


def _counts(recorded: Any) -> NDArray[np.float64] | None:
    """Return recorded counts as (clients, K) floats; None for anything else, and for none."""
    try:
        counts = np.asarray(recorded, dtype=np.float64)
    except (TypeError, ValueError):
        # Not numbers, or rows of different lengths.
        return None
    if counts.ndim != 2 or not counts.size:
        return None
    return counts if counts.sum() > 0 else None


def _is_range(sizes: Any) -> bool:
    """Return whether a manifest's sizes are those of the smallest, median and largest client."""
    if not isinstance(sizes, list) or len(sizes) != 3:
        return False
    # A manifest may be damaged, or written by hand.
    return all(isinstance(size, int | float) for size in sizes)


def _plot_mix(counts: NDArray[np.float64], path: Path) -> None:
    """Draw counts (clients, K): clients ordered by their most frequent label.

    Their sizes stand above, the shares of their labels below.
    """
    sizes = counts.sum(axis=1)
    # A client without samples would divide by zero.
    shares = counts / np.maximum(sizes, 1)[:, None]
    main_labels = shares.argmax(axis=1)
    # The last key counts most: by label, and within a label the purest clients first.
    order = np.lexsort((-shares.max(axis=1), main_labels))
    title = f"Labels of {count_text(len(counts))} clients"
    # Inches: each label has a line of its own, up to eighteen of them.
    height = 3.0 + min(0.22 * counts.shape[1], 4)
    grid: dict[str, Any] = {"sharex": True, "height_ratios": [1, 0.8 * height - 1]}
    with style.canvas(path, title, height, rows=2, **grid) as (figure, (top, bottom)):
        _plot_sizes(top, sizes[order])
        image = _plot_shares(bottom, shares[order])
        _client_ticks(bottom, order)
        # Beside both: one of them alone would become narrower than the other.
        figure.colorbar(
            image,
            ax=[top, bottom],
            label="share of the client's samples",
            format="{x:.0%}",
            pad=0.02,
        )


def _plot_sizes(axes: Any, sizes: NDArray[np.float64]) -> None:
    # Bars of many clients touch: gaps would only flicker.
    width = 0.85 if len(sizes) <= GAPS_UP_TO else 1.0
    positions = np.arange(len(sizes))
    axes.bar(positions, sizes, width=width, color="#4b5563")
    axes.set_ylabel("samples")
    axes.grid(axis="x", visible=False)


def _plot_shares(axes: Any, shares: NDArray[np.float64]) -> Any:
    """Draw shares (clients, K) as an image, labels from top to bottom, and return it."""
    by_label = shares.T
    # What a client has none of stays white.
    visible = np.where(by_label > 0, by_label, np.nan)
    image = axes.imshow(
        visible, aspect="auto", cmap="Blues", vmin=0, vmax=1, interpolation="nearest"
    )
    axes.grid(visible=False)
    axes.set_ylabel("label")
    axes.set_xlabel("clients, ordered by their most frequent label")
    _label_ticks(axes, len(by_label))
    return image


def _label_ticks(axes: Any, labels: int) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    if labels <= TICKS_UP_TO:
        axes.set_yticks(range(labels))


def _client_ticks(axes: Any, order: NDArray[np.int64]) -> None:
    if len(order) <= IDS_UP_TO:
        ids = [str(client) for client in order]
        axes.set_xticks(range(len(order)), ids)
    else:
        axes.set_xticks([])


def _plot_histogram(sizes: NDArray[np.float64], path: Path) -> None:
    title = f"Samples of {count_text(len(sizes))} clients"
    median = float(np.median(sizes))
    # The square root of very few clients would be a single bar.
    bins = "sqrt" if len(sizes) > 4 else 4
    with style.canvas(path, title) as (_, axes):
        axes.hist(sizes, bins=bins, color=style.COLOURS[0], edgecolor="white")
        axes.axvline(
            median, color=style.INK, linestyle="--", label=f"median {median:,.0f}"
        )
        axes.set_xlabel("samples of a client")
        axes.set_ylabel("clients")
        axes.grid(axis="x", visible=False)
        axes.legend()


def _plot_range(sizes: list[float], path: Path) -> None:
    """Draw the smallest, median and largest client: all that is recorded without labels."""
    names = ("smallest", "median", "largest")
    colours = [style.GREY, style.COLOURS[0], style.GREY]
    with style.canvas(path, "Samples of a client", height=2.4) as (_, axes):
        bars = axes.barh(names, sizes, color=colours, height=0.6)
        texts = [count_text(size) for size in sizes]
        axes.bar_label(bars, texts, padding=4)
        # The smallest on top: the axis counts from below.
        axes.invert_yaxis()
        # Room for the text beside the longest bar.
        axes.margins(x=0.15)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("samples")
