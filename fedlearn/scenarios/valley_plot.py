"""The picture of the scenario ``soil``: latency and place over time, and the bandwidth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedlearn.reporting import style
from fedlearn.scenarios.valley import CENTRE, EDGE, FieldAnswer

_HEIGHT = 5.6

# A link that is dead has no place on an axis of magnitudes: its line ends.
_NOWHERE = float("nan")


def draw(path: Path, answers: Sequence[FieldAnswer], edge_s: float) -> None:
    """Draw it into a PNG file. edge_s: what a request takes on the device.

    Raises RecordError when the file cannot be written.
    """
    title = "Where fields are judged while the link dies"
    with style.canvas(path, title, _HEIGHT, rows=2, sharex=True) as (_, axes):
        for position, (version, name) in enumerate(
            ((EDGE, "on the device"), (CENTRE, "at the centre"))
        ):
            part = [answer for answer in answers if answer.version == version]
            axes[0].plot(
                [answer.at_s for answer in part],
                [1000 * answer.latency_s for answer in part],
                label=name,
                color=style.COLOURS[position],
                marker=style.MARKERS[position],
                linestyle="none",
            )
        axes[0].axhline(
            1000 * edge_s, color=style.GREY, linestyle="--", label="device alone"
        )
        axes[0].set_yscale("log")
        axes[0].set_ylabel("latency, ms")
        style.legend_beside(axes[0])
        rates = [answer.rate / 1e6 or _NOWHERE for answer in answers]
        axes[1].plot([answer.at_s for answer in answers], rates, color=style.INK)
        axes[1].set_yscale("log")
        axes[1].set_ylabel("link, Mbit/s")
        axes[1].set_xlabel("seconds; no line: no link")
