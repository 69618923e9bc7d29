"""The page of several runs: their curves in one picture, the table, and where configs differ."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from fedlearn.records.reading import RunRecord
from fedlearn.reporting import style
from fedlearn.reporting.html import (
    Html,
    element,
    picture,
    section_of,
    table,
    write_document,
)
from fedlearn.reporting.results import AccuracyCurve, accuracy_curve, labels
from fedlearn.reporting.table import Value, cells, differences
from fedlearn.reporting.units import percent_text

# How a key reads that a run's config does not have: TOML has no null.
MISSING_KEY = "not set"

# Inches of a picture, and of each line of its legend, which holds two names.
PICTURE_HEIGHT = 4.4
LEGEND_LINE_HEIGHT = 0.22


def write_comparison(
    runs: Sequence[RunRecord],
    rows: Sequence[Mapping[str, Value]],
    target: float,
    out: Path,
) -> Path:
    """Write one page that compares runs, and return its path.

    rows: the table's rows (see `fedlearn.reporting.table.rows`). target: the accuracy, a share of
    1, drawn as a line. Raises RecordError when the page cannot be written.
    """
    names = labels(runs)
    # Pictures become part of the page, so their files need not stay.
    with tempfile.TemporaryDirectory() as folder:
        plots = overlays(runs, names, target, Path(folder))
        figures = [picture(path, caption) for path, caption in plots]
    curves = Html("")
    if figures:
        curves = section_of("Curves", element("div", *figures, class_="plots"))
    foot = (
        "Written by fedlearn. Bytes are payloads as encoded; 1 MB is 1,000,000 bytes."
    )
    return write_document(
        out,
        f"{len(runs)} runs – fedlearn",
        _header(names),
        *_problems(runs, names),
        curves,
        figures_table(rows, target),
        config_table(runs, names),
        element("footer", foot),
    )


def _header(names: Sequence[str]) -> Html:
    bold_names = ", ".join(element("b", name) for name in names)
    return element(
        "header",
        element("p", "fedlearn comparison", class_="kind"),
        element("h1", f"{len(names)} runs"),
        element("p", Html(bold_names), class_="lead"),
    )


def _problems(runs: Sequence[RunRecord], names: Sequence[str]) -> list[Html]:
    """Return a warning for each thing that could not be read."""
    return [
        element("p", f"{name}: {problem}", class_="warning")
        for name, run in zip(names, runs, strict=True)
        for problem in run.problems
    ]


def overlays(
    runs: Sequence[RunRecord], names: Sequence[str], target: float, folder: Path
) -> list[tuple[Path, str]]:
    """Draw the accuracy of all runs over rounds and over bytes; return each with its caption.

    None where no run was evaluated. Raises RecordError when a picture cannot be written.
    """
    curves: dict[str, AccuracyCurve] = {}
    for name, run in zip(names, runs, strict=True):
        curve = accuracy_curve(run.lines)
        # A run that was never evaluated has no curve, and is in the table all the same.
        if curve.rounds:
            curves[name] = curve
    if not curves:
        return []
    by_round = folder / "rounds.png"
    by_bytes = folder / "bytes.png"
    _overlay(by_round, "Accuracy over rounds", curves, target, "rounds")
    _overlay(by_bytes, "Accuracy over bytes exchanged", curves, target, "bytes")
    line = f"The grey line is the target, {percent_text(target)}."
    return [
        (by_round, f"Accuracy on held-out data over rounds. {line}"),
        (by_bytes, f"The same accuracy over the bytes of both directions. {line}"),
    ]


def _overlay(
    path: Path,
    title: str,
    curves: Mapping[str, AccuracyCurve],
    target: float,
    over: Literal["rounds", "bytes"],
) -> None:
    # Two names a line, rounded up.
    legend_lines = -(-len(curves) // 2)
    height = PICTURE_HEIGHT + LEGEND_LINE_HEIGHT * legend_lines
    with style.canvas(path, title, height=height) as (figure, axes):
        for position, (name, curve) in enumerate(curves.items()):
            x: Sequence[float] = curve.bytes_total
            if over == "rounds":
                x = curve.rounds
            look = style.line_style(position, len(curve.rounds))
            axes.plot(x, curve.accuracy, label=style.literal(name), **look)
        # matplotlib draws curves at zorder 2, so the target lies behind them.
        axes.axhline(target, color=style.GREY, linewidth=1, zorder=1)
        if over == "rounds":
            style.round_axis(axes)
        else:
            totals = [total for curve in curves.values() for total in curve.bytes_total]
            style.bytes_axis(axes, totals)
        style.percent_axis(axes)
        figure.legend(loc="outside lower left", ncols=2)


def figures_table(rows: Sequence[Mapping[str, Value]], target: float) -> Html:
    """Return the table on its side, one column per run, so that few runs fit any screen."""
    # The first column holds the headings, each other one a run.
    heading, *lines = [list(line) for line in zip(*cells(rows), strict=True)]
    note = (
        f"Target: {percent_text(target)}. Rounds and bytes to target: where the best accuracy so "
        "far crosses it, with linear interpolation between evaluated rounds (McMahan et al., "
        "AISTATS 2017). Bytes are of both directions."
    )
    return section_of("Figures", table(heading, lines), note=note)


def config_table(runs: Sequence[RunRecord], names: Sequence[str]) -> Html:
    """Return the config keys in which the runs differ, one column per run."""
    differing = differences([run.config for run in runs])
    if not differing:
        text = "The configs are equal but for their names."
        return section_of("Config", element("p", text, class_="note"))
    rows = [
        [element("code", key), *map(_config_value, values)]
        for key, values in differing.items()
    ]
    note = "Only the keys that differ; everything else is equal in all runs."
    return section_of("Config", table(["key", *names], rows), note=note)


def _config_value(value: Any) -> object:
    """Return a value as TOML has it."""
    if value is None:
        return MISSING_KEY
    if isinstance(value, bool):
        return str(value).lower()
    return value
