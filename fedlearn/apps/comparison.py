"""Runs of apps side by side: a table, CSV, and one page with their metrics overlaid."""

from __future__ import annotations

import csv
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedlearn.apps.lines import KINDS
from fedlearn.apps.page import series
from fedlearn.apps.record import AppRecord
from fedlearn.reporting import style
from fedlearn.reporting.html import (
    Html,
    element,
    picture,
    section_of,
    table,
    write_document,
)
from fedlearn.reporting.units import (
    MISSING,
    bytes_text,
    number_text,
    ratio_text,
    time_text,
)

# Pictures of a page: each is of one metric that several runs have.
_MOST_PICTURES = 40

# Of metrics the last values, by the app's own names.
_FIRST_COLUMNS = ("run", "rounds", "messages", "failed", "bytes", "fewer", "time")


def names(records: Sequence[AppRecord]) -> list[str]:
    """Return one distinct name per run: the app's, with the folder where apps repeat."""
    own = [record.name for record in records]
    return [
        name if own.count(name) == 1 else f"{name} ({record.folder})"
        for name, record in zip(own, records, strict=True)
    ]


def columns(records: Sequence[AppRecord]) -> list[tuple[str, str]]:
    """Return (kind, metric) of all metrics that are numbers at the end of any run."""
    known: dict[tuple[str, str], None] = {}
    for record in records:
        for kind in KINDS:
            for name, value in (record.summary[kind] or {}).items():
                if isinstance(value, int | float):
                    known.setdefault((kind, name))
    return list(known)


def cells(records: Sequence[AppRecord]) -> list[list[str]]:
    """Return the texts of the table: a line of headings, then one line per run."""
    metrics = columns(records)
    lines = [[*_FIRST_COLUMNS, *(f"{kind} {name}" for kind, name in metrics)]]
    for name, record in zip(names(records), records, strict=True):
        summary = record.summary
        total = summary["bytes_up"] + summary["bytes_down"]
        lines.append(
            [
                name if record.finished else f"{name} (unfinished)",
                str(summary["rounds"]),
                str(summary["messages"]),
                str(summary["failed"]),
                bytes_text(total),
                ratio_text(summary["bytes_raw"], total),
                time_text(summary["seconds"]),
                *(_text(_last(record, *metric)) for metric in metrics),
            ]
        )
    return lines


def csv_text(records: Sequence[AppRecord]) -> str:
    """Return the table as CSV, numbers in full precision."""
    metrics = columns(records)
    sums = ("rounds", "messages", "failed", "bytes_up", "bytes_down", "bytes_raw")
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(
        ["name", *sums, "seconds", "model_sha256", *(f"{k}.{n}" for k, n in metrics)]
    )
    for name, record in zip(names(records), records, strict=True):
        summary = record.summary
        row = [name, *(summary[key] for key in sums)]
        row += [summary["seconds"], summary["model_sha256"] or ""]
        writer.writerow([*row, *(_last(record, *metric) for metric in metrics)])
    return buffer.getvalue()


def write_comparison(records: Sequence[AppRecord], path: Path) -> Path:
    """Write one page that compares runs and return its path; raises RecordError."""
    heading, *rows = cells(records)
    # Pictures become part of the page, so their files need not stay.
    with tempfile.TemporaryDirectory() as plots:
        figures = _pictures(records, Path(plots))
    section = Html("")
    if figures:
        section = section_of("Metrics", element("div", *figures, class_="plots"))
    foot = "Written by fedlearn. Metrics have the apps' own names."
    return write_document(
        path,
        f"{len(records)} runs – fedlearn",
        element(
            "header",
            element("p", "Flower apps", class_="kind"),
            element("h1", f"{len(records)} runs"),
        ),
        section,
        section_of("Figures", table(heading, rows)),
        element("footer", foot),
    )


def _pictures(records: Sequence[AppRecord], plots: Path) -> list[Html]:
    labels = names(records)
    figures: list[Html] = []
    for kind in KINDS:
        curves = [series(record.lines, kind) for record in records]
        metrics = dict.fromkeys(name for of_run in curves for name in of_run)
        for name in metrics:
            if len(figures) == _MOST_PICTURES:
                return figures
            path = plots / f"{len(figures)}.png"
            with style.canvas(path, style.literal(f"{name} ({kind})")) as (_, axes):
                for position, (label, of_run) in enumerate(
                    zip(labels, curves, strict=True)
                ):
                    # An app may lack what another measures.
                    rounds, values = of_run.get(name, ([], []))
                    look = style.line_style(position, len(rounds))
                    axes.plot(rounds, values, label=style.literal(label), **look)
                style.round_axis(axes)
                axes.legend()
            figures.append(picture(path, f"{name} of '{kind}' over rounds."))
    return figures


def _last(record: AppRecord, kind: str, name: str) -> Any:
    value = (record.summary[kind] or {}).get(name)
    return value if isinstance(value, int | float) else None


def _text(value: float | None) -> str:
    return MISSING if value is None else number_text(value)
