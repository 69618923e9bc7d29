"""The picture of a partition: how many samples each client has, and of which labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlearn.records.reading import RunRecord, section
from fedlearn.reporting import style
from fedlearn.reporting.units import count_text


def plot_label_mix(run: RunRecord, path: Path) -> bool:
    """Draw the label mix; without label counts, the sizes of the clients; False when neither is recorded.

    Counts with a single column (K = 1) are sizes only, as for text: they become a histogram.
    """
    data = section(run.manifest, "data")
    counts = _counts(section(data, "label_counts").get("counts"))
    if counts is not None and counts.shape[1] > 1:
        _mix(counts, path)
    elif counts is not None:
        _histogram(counts[:, 0], path)
    else:
        sizes = data.get("sizes")
        if not (
            isinstance(sizes, list)
            and len(sizes) == 3
            and all(isinstance(size, int | float) for size in sizes)
        ):
            return False
        _range(sizes, path)
    return True


def _counts(recorded: Any) -> NDArray[np.float64] | None:
    try:
        counts = np.asarray(recorded, dtype=np.float64)
    except (TypeError, ValueError):
        return None
    return counts if counts.ndim == 2 and counts.size and counts.sum() > 0 else None


def _mix(counts: NDArray[np.float64], path: Path) -> None:
    """Draw counts (clients, K): clients ordered by their most frequent label, sizes above, shares of labels below."""
    sizes = counts.sum(axis=1)
    shares = counts / np.maximum(sizes, 1)[:, None]
    main = shares.argmax(axis=1)
    order = np.lexsort((-shares.max(axis=1), main))
    title = f"Labels of {count_text(len(counts))} clients"
    height = 3.0 + min(0.22 * counts.shape[1], 4)
    ratios = [1, 0.8 * height - 1]
    with style.canvas(path, title, height, 2, sharex=True, height_ratios=ratios) as (
        figure,
        (top, bottom),
    ):
        top.bar(
            np.arange(len(sizes)),
            sizes[order],
            width=0.85 if len(sizes) <= 60 else 1.0,
            color="#4b5563",
        )
        top.set_ylabel("samples")
        top.grid(axis="x", visible=False)
        shown = np.where(shares[order].T > 0, shares[order].T, np.nan)
        image = bottom.imshow(
            shown, aspect="auto", cmap="Blues", vmin=0, vmax=1, interpolation="nearest"
        )
        bottom.grid(visible=False)
        bottom.set_ylabel("label")
        bottom.set_xlabel("clients, ordered by their most frequent label")
        _whole_ticks(bottom, counts.shape[1])
        _client_ticks(bottom, order)
        figure.colorbar(
            image,
            ax=[top, bottom],
            label="share of the client's samples",
            format="{x:.0%}",
            pad=0.02,
        )


def _whole_ticks(axes: Any, labels: int) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    if labels <= 12:
        axes.set_yticks(range(labels))


def _client_ticks(axes: Any, order: NDArray[np.int64]) -> None:
    if len(order) <= 24:
        axes.set_xticks(range(len(order)), [str(client) for client in order])
    else:
        axes.set_xticks([])


def _histogram(sizes: NDArray[np.float64], path: Path) -> None:
    with style.canvas(path, f"Samples of {count_text(len(sizes))} clients") as (
        _,
        axes,
    ):
        axes.hist(
            sizes,
            bins="sqrt" if len(sizes) > 4 else 4,
            color="#0072B2",
            edgecolor="white",
        )
        axes.axvline(
            float(np.median(sizes)),
            color=style.INK,
            linestyle="--",
            label=f"median {np.median(sizes):,.0f}",
        )
        axes.set_xlabel("samples of a client")
        axes.set_ylabel("clients")
        axes.grid(axis="x", visible=False)
        axes.legend()


def _range(sizes: list[float], path: Path) -> None:
    """Draw the smallest, median and largest client, all that is recorded where there are no labels."""
    names = ("smallest", "median", "largest")
    with style.canvas(path, "Samples of a client", height=2.4) as (_, axes):
        bars = axes.barh(
            names, sizes, color=["#9ca3af", "#0072B2", "#9ca3af"], height=0.6
        )
        axes.bar_label(bars, [count_text(size) for size in sizes], padding=4)
        axes.invert_yaxis()
        axes.margins(x=0.15)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("samples")
