"""The page of several runs: their curves in one picture, the table, and what their configs differ in."""

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

MISSING_KEY = "not set"


def write_comparison(
    runs: Sequence[RunRecord],
    rows: Sequence[Mapping[str, Value]],
    target: float,
    out: Path,
) -> Path:
    """Write one page that compares runs, and return its path.

    rows: the table's rows (see `fedlearn.reporting.table.rows`). target: the accuracy, a share of 1, drawn as a line.
    Raises RecordError when the page cannot be written.
    """
    names = labels(runs)
    with tempfile.TemporaryDirectory() as drawn:
        plots = overlays(runs, names, target, Path(drawn))
        figures = element(
            "div", *(picture(path, caption) for path, caption in plots), class_="plots"
        )
    lead = element(
        "p", Html(", ".join(element("b", name) for name in names)), class_="lead"
    )
    kind = element("p", "fedlearn comparison", class_="kind")
    head = element("header", kind, element("h1", f"{len(runs)} runs"), lead)
    problems = [
        element("p", f"{name}: {problem}", class_="warning")
        for name, run in zip(names, runs, strict=True)
        for problem in run.problems
    ]
    return write_document(
        out,
        f"{len(runs)} runs – fedlearn",
        head,
        *problems,
        section_of("Curves", figures) if plots else "",
        figures_table(rows, target),
        config_table(runs, names),
        element(
            "footer",
            "Written by fedlearn. Bytes are payloads as encoded; 1 MB is 1,000,000 bytes.",
        ),
    )


def overlays(
    runs: Sequence[RunRecord], names: Sequence[str], target: float, folder: Path
) -> list[tuple[Path, str]]:
    """Draw the accuracy of all runs over rounds and over bytes; return each picture with its caption."""
    curves = {
        name: accuracy_curve(run.lines) for name, run in zip(names, runs, strict=True)
    }
    curves = {name: curve for name, curve in curves.items() if curve.rounds}
    if not curves:
        return []
    by_round, by_bytes = folder / "rounds.png", folder / "bytes.png"
    line = f"The grey line is the target, {percent_text(target)}."
    _overlay(by_round, "Accuracy over rounds", curves, target, "rounds")
    _overlay(by_bytes, "Accuracy over bytes exchanged", curves, target, "bytes")
    captions = (
        "Accuracy on held-out data over rounds.",
        "The same accuracy over the bytes of both directions.",
    )
    return [(by_round, f"{captions[0]} {line}"), (by_bytes, f"{captions[1]} {line}")]


def _overlay(
    path: Path,
    title: str,
    curves: Mapping[str, AccuracyCurve],
    target: float,
    over: Literal["rounds", "bytes"],
) -> None:
    rows = -(-len(curves) // 2)
    with style.canvas(path, title, height=4.4 + 0.22 * rows) as (figure, axes):
        for position, (name, curve) in enumerate(curves.items()):
            x = curve.rounds if over == "rounds" else curve.bytes_total
            axes.plot(
                x,
                curve.accuracy,
                label=style.literal(name),
                **style.line_style(position, len(curve.rounds)),
            )
        axes.axhline(target, color="#9ca3af", linewidth=1, zorder=1)
        if over == "rounds":
            style.round_axis(axes)
        else:
            style.bytes_axis(
                axes,
                [value for curve in curves.values() for value in curve.bytes_total],
            )
        style.percent_axis(axes)
        figure.legend(loc="outside lower left", ncols=2)


def figures_table(rows: Sequence[Mapping[str, Value]], target: float) -> Html:
    """Return the table turned on its side: one column per run, so that few runs fit any screen."""
    heading, *lines = [list(line) for line in zip(*cells(rows), strict=True)]
    note = (
        f"Target: {percent_text(target)}. Rounds and bytes to target: where the best accuracy so far crosses it, with "
        "linear interpolation between evaluated rounds (McMahan et al., AISTATS 2017). Bytes are of both directions."
    )
    return section_of("Figures", table(heading, lines), note=note)


def config_table(runs: Sequence[RunRecord], names: Sequence[str]) -> Html:
    """Return the config keys in which the runs differ, one column per run."""
    found = differences([run.config for run in runs])
    if not found:
        return section_of(
            "Config",
            element("p", "The configs are equal but for their names.", class_="note"),
        )
    rows = [
        [element("code", key), *map(_shown, values)] for key, values in found.items()
    ]
    note = "Only the keys that differ; everything else is equal in all runs."
    return section_of("Config", table(["key", *names], rows), note=note)


def _shown(value: Any) -> object:
    return (
        MISSING_KEY
        if value is None
        else str(value).lower()
        if isinstance(value, bool)
        else value
    )
