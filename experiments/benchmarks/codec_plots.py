"""Pictures of the codec benchmark: error against bits per parameter, beside the limits of theory.

rate-distortion.png              one panel per direction: geometric means over all recordings
                                 (of bits and of error; of chains that differ only in packing
                                 the smallest is shown)
rate-distortion-models-up.png    one panel per workload, and the same for "down": geometric
                                 means over its stages

The limits are those of P independent draws of one normal distribution: D = 2^(-2R) for the
least error at R bits per value (Shannon, 1959), and D / (1 - D) = 1 / (2^(2R) - 1) once that
estimate is scaled to be unbiased. Real updates are not such draws (few values hold most of
their energy), so a chain may lie below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import geometric_mean
from typing import TYPE_CHECKING, Any, Protocol

from fedlearn.codec.chain import parse
from fedlearn.codec.stages import PACK, SELECT
from fedlearn.errors import RecordError
from fedlearn.reporting import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINES: dict[str, tuple[str, bool]] = {
    "uvq": ("uvq(rate)", True),
    "cvq,0": ("cvq(rate, 0)", False),
    "pred+cvq,0": ("pred+cvq(rate, 0)", False),
    "topk+tern": ("topk(p)+tern", False),
    "topk+q4c": ("topk(p)+q4c", False),
    "pred+topk+q4c": ("pred+topk(p)+q4c", False),
    "randk+q4": ("randk(p)+q4", True),
    "randk+raw32": ("randk(p)+raw32", True),
}
"""Families of chains that differ in one number: key → legend, and whether they are unbiased
(filled markers).
"""

DOTS: dict[str, tuple[bool, tuple[int, int]]] = {
    "eden1": (True, (7, -9)),
    "sign": (False, (7, 3)),
    "q4": (True, (7, -3)),
    "q4+deflate": (True, (-4, 8)),
}
"""Chains without a number: text → whether they are unbiased, and where their name stands beside
them (points).
"""

DIRECTIONS = {"up": "client's update, up", "down": "model's difference, down"}
BITS, ERRORS = (
    (4e-3, 14.0),
    (2e-2, 60.0),
)  # what is shown: exact number formats lie below


class Point(Protocol):
    """What of a result is drawn."""

    @property
    def recording(self) -> str:
        """Return its name, WORKLOAD-STAGE."""

    @property
    def direction(self) -> str:
        """Return "up" or "down"."""

    @property
    def chain(self) -> str:
        """Return the codec's text."""

    @property
    def bits(self) -> float:
        """Return bits per parameter."""

    @property
    def error(self) -> float:
        """Return the normalised squared error."""


def draw(results: Sequence[Point], out: Path) -> list[Path]:
    """Draw every plot and return their paths; raises RecordError where one cannot be written."""
    by_direction = {d: [r for r in results if r.direction == d] for d in DIRECTIONS}
    paths = [out / "rate-distortion.png"]
    _draw(paths[0], {DIRECTIONS[d]: found for d, found in by_direction.items()})
    for direction, found in by_direction.items():
        workloads = dict.fromkeys(r.recording.rpartition("-")[0] for r in found)
        paths.append(out / f"rate-distortion-models-{direction}.png")
        panels = {
            f"{w}, {direction}": [
                r for r in found if r.recording.rpartition("-")[0] == w
            ]
            for w in workloads
        }
        _draw(paths[-1], panels)
    return paths


def families(results: Sequence[Point]) -> dict[str, list[tuple[float, float]]]:
    """Return (bits, error) by family, in the order of bits: of packers the smallest, of
    recordings the geometric mean.

    Chains without an error, or that are in no family, are left out.
    """
    best: dict[tuple[str, str, str], Point] = {}
    for result in results:
        family, number = _family(result.chain)
        key = (family, number, result.recording)
        if (
            (family in LINES or family in DOTS)
            and result.error > 0
            and (key not in best or result.bits < best[key].bits)
        ):
            best[key] = result
    together: dict[tuple[str, str], list[Point]] = {}
    for (family, number, _), result in best.items():
        together.setdefault((family, number), []).append(result)
    found: dict[str, list[tuple[float, float]]] = {}
    for (family, _), group in together.items():
        found.setdefault(family, []).append(
            (
                geometric_mean(r.bits for r in group),
                geometric_mean(r.error for r in group),
            )
        )
    return {family: sorted(points) for family, points in found.items()}


def _family(chain: str) -> tuple[str, str]:
    """Return the family of a chain and the number that tells its members apart: cvq(0.1) →
    "cvq,0", "0.1".
    """
    links = parse(chain).stages
    selects = any(link.role == SELECT for link in links)
    told = [link for link in links if not (selects and link.role == PACK)]
    number = next((f"{link.numbers[0]:g}" for link in told if link.numbers), "")
    return "+".join(
        ",".join([link.name, *(f"{n:g}" for n in link.numbers[1:])]) for link in told
    ), number


def _draw(path: Path, panels: Mapping[str, Sequence[Point]]) -> None:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    rows = -(-len(panels) // 2)
    with rc_context(style.SETTINGS | {"axes.titlesize": 11}):
        figure = Figure(figsize=(10.0, 1.1 + 3.9 * rows), dpi=120, facecolor="white")
        grid = figure.subplots(rows, 2, sharex=True, sharey=True, squeeze=False)
        for axes, (title, found) in zip(grid.flat, panels.items(), strict=False):
            _panel(axes, found)
            axes.set_title(title)
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        figure.supxlabel("bits per parameter, all bytes of the body", fontsize=11)
        figure.supylabel("squared error ‖x − x̂‖² / ‖x‖²", fontsize=11)
        handles = {
            text: handle
            for axes in grid.flat
            for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(
            handles.values(),
            handles.keys(),
            loc="outside upper center",
            ncols=4,
            fontsize=9,
            title="filled markers: unbiased",
            title_fontsize=9,
        )
        try:
            figure.savefig(path)
        except OSError as error:
            raise RecordError(
                f"cannot write the plot '{path}': {error.strerror or error}"
            ) from error


def _panel(axes: Axes, results: Sequence[Point]) -> None:
    rates = [BITS[0] * (BITS[1] / BITS[0]) ** (i / 99) for i in range(100)]
    axes.plot(
        rates,
        [4**-r for r in rates],
        color="black",
        linewidth=1.2,
        label="limit for normal values",
    )
    axes.plot(
        rates,
        [1 / (4**r - 1) for r in rates],
        color="black",
        linewidth=1.2,
        linestyle=":",
        label="the same limit, unbiased",
    )
    found = families(results)
    for position, (family, (text, unbiased)) in enumerate(LINES.items()):
        if family in found:
            looks = style.line_style(position, len(found[family]))
            if position >= len(style.COLOURS):
                looks |= {"color": style.FAINT, "marker": "*"}
            axes.plot(
                *zip(*found[family], strict=True),
                label=text,
                **looks | _fill(looks["color"], unbiased),
            )
    for chain, (unbiased, beside) in DOTS.items():
        for bits, error in found.get(chain, []):
            axes.plot(
                [bits],
                [error],
                marker="o",
                linestyle="none",
                color=style.INK,
                **_fill(style.INK, unbiased),
            )
            if BITS[0] < bits < BITS[1] and ERRORS[0] < error < ERRORS[1]:
                axes.annotate(
                    chain,
                    (bits, error),
                    xytext=beside,
                    textcoords="offset points",
                    fontsize=8,
                )
    axes.set(xscale="log", yscale="log", xlim=BITS, ylim=ERRORS)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _fill(colour: str, unbiased: bool) -> dict[str, Any]:
    return {"markerfacecolor": colour if unbiased else "white", "markeredgewidth": 1.2}
