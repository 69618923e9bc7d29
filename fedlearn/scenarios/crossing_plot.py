"""The picture of the scenario ``traffic``: counts by class over time, against the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from fedlearn.reporting import style
from fedlearn.scenarios import roads
from fedlearn.scenarios.crossing import Passage

_HEIGHT = 4.6


@dataclass(frozen=True)
class CountWindow:
    """Counts by class that were sent together. at_s: since 1970."""

    at_s: float
    counts: Mapping[str, int]


def seconds(moment: str) -> float:
    """Return seconds since 1970 of a moment as RFC 3339 has it, in UTC."""
    # Before Python 3.11 "Z" was no zone.
    return datetime.fromisoformat(moment.replace("Z", "+00:00")).timestamp()


def draw(
    path: Path,
    passing: Sequence[Passage],
    windows: Sequence[CountWindow],
    began_s: float,
    killed_s: float,
) -> None:
    """Draw it into a PNG file.

    began_s: when the camera began, since 1970. killed_s: since then. Raises RecordError
    when the file cannot be written.
    """
    with style.canvas(path, "Vehicles counted at a crossing", _HEIGHT) as (_, axes):
        for position, name in enumerate(roads.CLASSES):
            look = style.line_style(position, len(windows))
            times_s = [0.0, *(window.at_s - began_s for window in windows)]
            sums = np.cumsum([0, *(window.counts.get(name, 0) for window in windows)])
            axes.step(times_s, sums, where="post", label=name, **look)
            # Moments at which one more had passed.
            truth_s = [p.at_s for p in passing if p.label == position]
            # Behind the counts, wide and pale: both are seen where they agree.
            axes.step(
                [0.0, *truth_s],
                np.arange(len(truth_s) + 1),
                where="post",
                color=look["color"],
                linewidth=6,
                alpha=0.25,
            )
        axes.axvline(killed_s, color=style.GREY, linestyle=":")
        axes.annotate(
            "kill -9",
            (killed_s, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(4, -12),
            textcoords="offset points",
        )
        axes.set_xlabel("seconds; pale: what passed")
        axes.set_ylabel("vehicles so far")
        style.legend_beside(axes, upside_down=True)
