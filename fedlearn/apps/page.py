"""The page of an app's run: ``report.html``, with the app's own metrics over its rounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from json import dumps
from pathlib import Path
from typing import Any

from fedlearn.apps.lines import KINDS, Line, failed_text
from fedlearn.apps.record import AppRecord
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

_CAPTIONS = {
    "train": "Training on the nodes, as the strategy sums it up.",
    "evaluate": "Evaluation on the nodes, as the strategy sums it up.",
    "server": "What the ServerApp's own evaluate_fn gives.",
}

# Metrics that a page shows: an app may have thousands, and the lines have all.
_MOST_METRICS = 40


def write_page(
    record: AppRecord, path: Path | None = None, plots: Path | None = None
) -> Path:
    """Write the page of an app's run and return its path; raises RecordError.

    path, plots: where the page and its pictures go; None: into the run's folder.
    """
    plots = plots or record.folder / PLOTS_FOLDER
    lines = record.lines
    parts = [
        element(
            "header",
            element("p", "Flower app", class_="kind"),
            element("h1", record.name),
            element("p", _lead(record), class_="lead"),
        ),
        _warning(record),
        _tiles(record.summary),
        _pictures(plots, lines),
        _exchange(plots, lines),
        _rounds(lines),
        _failures(lines),
        _settings(record),
    ]
    foot = "Written by fedlearn. Metrics have the app's own names."
    title = f"{record.name} – fedlearn"
    place = path or record.folder / PAGE_FILE
    return write_document(place, title, *parts, element("footer", foot))


def _lead(record: AppRecord) -> str:
    codec = record.summary["codec"]
    return (
        f"{count_text(record.about.get('nodes'))} nodes, up {codec.get('up')}, "
        f"down {codec.get('down')}, seed {record.about.get('seed')}"
    )


def _warning(record: AppRecord) -> Html:
    """Return what a reader should know before all figures; empty: nothing."""
    texts: list[str] = []
    if not record.finished:
        texts.append("The run is not finished.")
    failed = failed_text(record.summary)
    if failed:
        texts.append(f"{failed}.")
    if not texts:
        return Html("")
    return element("p", " ".join(texts), class_="warning")


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
    for kind in KINDS:
        for name, value in list((summary[kind] or {}).items())[:_MOST_METRICS]:
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
                # Each strategy of an app counts its rounds anew.
                label = name if line["part"] == 1 else f"{name}, part {line['part']}"
                rounds, values = curves.setdefault(label, ([], []))
                rounds.append(line["round"])
                values.append(float(value))
    return curves


def _pictures(plots: Path, lines: Sequence[Line]) -> Html:
    figures: list[Html] = []
    note = ""
    for kind, caption in _CAPTIONS.items():
        curves = list(series(lines, kind).items())
        if len(curves) > _MOST_METRICS:
            note += f"Of {len(curves)} metrics of '{kind}' the first {_MOST_METRICS}. "
        for number, (name, curve) in enumerate(curves[:_MOST_METRICS]):
            # Metrics have scales of their own, so each has its own picture.
            path = plots / f"{kind}-{number}.png"
            _plot(path, f"{name} ({kind})", *curve)
            figures.append(picture(path, f"{name}. {caption}"))
    if not figures:
        return Html("")
    section = element("div", *figures, class_="plots")
    return section_of("Metrics", section, note=note.strip())


def _exchange(plots: Path, lines: Sequence[Line]) -> Html:
    """Return pictures of what was sent, and of the messages that failed, if any did."""
    places = _places(lines)
    curves = {
        "down, to the nodes": [float(line["bytes_down"]) for line in lines],
        "up, from the nodes": [float(line["bytes_up"]) for line in lines],
    }
    path = plots / "bytes.png"
    _overlay(path, "Bytes of a round", places, curves, bytes_text)
    figures = [picture(path, "Payloads as they were sent, round by round.")]
    if any(line["failed"] for line in lines):
        curves = {
            "messages": [float(line["messages"]) for line in lines],
            "failed": [float(line["failed"]) for line in lines],
        }
        path = plots / "messages.png"
        _overlay(path, "Messages of a round", places, curves, count_text)
        figures.append(picture(path, "Messages to nodes, and those that failed."))
    return section_of("Exchange", element("div", *figures, class_="plots"))


def _places(lines: Sequence[Line]) -> list[int]:
    """Return where lines stand on the axis of rounds."""
    # An app of several strategies counts its rounds anew: then they are counted on.
    if any(line["part"] > 1 for line in lines):
        return list(range(1, len(lines) + 1))
    return [line["round"] for line in lines]


def _overlay(
    path: Path,
    title: str,
    places: Sequence[int],
    curves: Mapping[str, list[float]],
    text: Callable[[float | None], str],
) -> None:
    from matplotlib.ticker import FuncFormatter

    with style.canvas(path, title) as (_, axes):
        for position, (name, values) in enumerate(curves.items()):
            look = style.line_style(position, len(values))
            axes.plot(places, values, label=name, **look)
        style.round_axis(axes)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))
        axes.legend()


def _plot(path: Path, title: str, rounds: list[int], values: list[float]) -> None:
    with style.canvas(path, style.literal(title)) as (_, axes):
        axes.plot(rounds, values, **style.line_style(0, len(rounds)))
        style.round_axis(axes)


def _rounds(lines: Sequence[Line]) -> Html:
    # One column for each metric that any round has.
    names = [
        (kind, name) for kind in KINDS for name in _names(lines, kind)[:_MOST_METRICS]
    ]
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


def _names(lines: Sequence[Line], kind: str) -> list[str]:
    """Return the metrics of a kind that are numbers, in the order in which they came."""
    names: dict[str, None] = {}
    for line in lines:
        for name, value in (line[kind] or {}).items():
            if isinstance(value, int | float):
                names.setdefault(name)
    return list(names)


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


def _settings(record: AppRecord) -> Html:
    # As the run folder has it, so that the page stands alone.
    text = dumps(record.about, indent=2)
    return section_of("Settings", element("pre", text))
