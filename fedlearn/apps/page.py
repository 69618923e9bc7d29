"""The page of an app's run: ``report.html``, with the app's own metrics over its rounds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedlearn.apps.start import Started
from fedlearn.records.names import PAGE_FILE, PLOTS_FOLDER
from fedlearn.reporting import style
from fedlearn.reporting.html import (
    Html,
    element,
    picture,
    section_of,
    table,
    tile,
    write_document,
)
from fedlearn.reporting.units import (
    MISSING,
    against_raw,
    bytes_text,
    count_text,
    number_text,
    time_text,
)

Line = Mapping[str, Any]

_KINDS = {
    "train": "Training on the nodes, as the strategy sums it up.",
    "evaluate": "Evaluation on the nodes, as the strategy sums it up.",
    "server": "What the ServerApp's own evaluate_fn gives.",
}


def write_page(
    folder: Path, started: Started, lines: Sequence[Line], summary: Mapping[str, Any]
) -> Path:
    """Write the page of a run's folder and return its path; raises RecordError."""
    project = started.project
    parts = [
        element(
            "header",
            element("p", "Flower app", class_="kind"),
            element("h1", project.name),
            element("p", _lead(started, summary), class_="lead"),
        ),
        _tiles(summary),
        _pictures(folder, lines),
        _rounds(lines),
        _failures(lines),
        _settings(started),
    ]
    foot = "Written by fedlearn. Metrics have the app's own names."
    title = f"{project.name} – fedlearn"
    return write_document(folder / PAGE_FILE, title, *parts, element("footer", foot))


def _lead(started: Started, summary: Mapping[str, Any]) -> str:
    codec = summary["codec"]
    return (
        f"{count_text(started.project.nodes)} nodes, up {codec['up']}, "
        f"down {codec['down']}, seed {started.seed}"
    )


def _tiles(summary: Mapping[str, Any]) -> Html:
    total = summary["bytes_up"] + summary["bytes_down"]
    digest = summary["model_sha256"] or ""
    tiles = [
        tile("rounds", count_text(summary["rounds"])),
        tile(
            "messages",
            count_text(summary["messages"]),
            f"{count_text(summary['failed'])} failed",
        ),
        tile("bytes", bytes_text(total), against_raw(summary["bytes_raw"], total)),
        tile("time", time_text(summary["seconds"])),
        tile(
            "model",
            count_text(summary["parameters"]),
            Html(
                f"values, sha256 {element('code', digest[:12] or MISSING, title=digest)}"
            ),
        ),
    ]
    # The app's own figures, as its strategy summed them up last.
    for kind in _KINDS:
        for name, value in (summary[kind] or {}).items():
            if isinstance(value, int | float):
                tiles.append(tile(name, number_text(value), f"last, {kind}"))
    return element("dl", *tiles, class_="tiles")


def series(
    lines: Sequence[Line], kind: str
) -> dict[str, tuple[list[int], list[float]]]:
    """Return metric → (rounds, values) of the metrics of a kind that are numbers."""
    curves: dict[str, tuple[list[int], list[float]]] = {}
    # A metric may begin late, or be missing in a round: each has rounds of its own.
    for line in lines:
        for name, value in (line[kind] or {}).items():
            if isinstance(value, int | float):
                rounds, values = curves.setdefault(name, ([], []))
                rounds.append(line["round"])
                values.append(float(value))
    return curves


def _pictures(folder: Path, lines: Sequence[Line]) -> Html:
    figures: list[Html] = []
    for kind, caption in _KINDS.items():
        for number, (name, curve) in enumerate(series(lines, kind).items()):
            # Metrics have scales of their own, so each has its own picture.
            path = folder / PLOTS_FOLDER / f"{kind}-{number}.png"
            _plot(path, f"{name} ({kind})", *curve)
            figures.append(picture(path, f"{style.literal(name)}. {caption}"))
    if not figures:
        return Html("")
    return section_of("Metrics", element("div", *figures, class_="plots"))


def _plot(path: Path, title: str, rounds: list[int], values: list[float]) -> None:
    with style.canvas(path, style.literal(title)) as (_, axes):
        axes.plot(rounds, values, **style.line_style(0, len(rounds)))
        style.round_axis(axes)


def _rounds(lines: Sequence[Line]) -> Html:
    # One column for each metric that any round has.
    names = [(kind, name) for kind in _KINDS for name in series(lines, kind)]
    heading = ["round", "messages", "failed", "down", "up", "time"]
    heading += [f"{kind} {name}" for kind, name in names]
    rows = [
        [
            line["round"],
            line["messages"],
            line["failed"],
            bytes_text(line["bytes_down"]),
            bytes_text(line["bytes_up"]),
            time_text(line["seconds"]),
            *(_value((line[kind] or {}).get(name)) for kind, name in names),
        ]
        for line in lines
    ]
    return section_of("Rounds", table(heading, rows))


def _value(value: object) -> str:
    return number_text(value) if isinstance(value, int | float) else MISSING


def _failures(lines: Sequence[Line]) -> Html:
    rows = [
        [line["round"], node, reason]
        for line in lines
        for node, reason in line["failures"].items()
    ]
    # Most runs have none.
    if not rows:
        return Html("")
    return section_of("Failures", table(["round", "node", "reason"], rows, (1, 2)))


def _settings(started: Started) -> Html:
    # As the run folder has it, so that the page stands alone.
    text = json.dumps(started.plain(), indent=2)
    return section_of("Settings", element("pre", text))
