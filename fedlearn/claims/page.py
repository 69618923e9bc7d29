"""The page of all claims: one file that needs nothing else, from the results that `fedlearn reproduce` keeps."""

from __future__ import annotations

import statistics
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedlearn.claims import curves
from fedlearn.claims.results import HEADINGS, NOTE, Result, again, kept, origin, rows
from fedlearn.claims.verdicts import HOLDS, KNOWN, MISSED, SKIPPED
from fedlearn.errors import UserError
from fedlearn.reporting.html import (
    Html,
    element,
    picture,
    section_of,
    table,
    tile,
    write_document,
)
from fedlearn.reporting.units import bytes_text, percent_text, time_text

CHIPS = {HOLDS: "good", MISSED: "bad", KNOWN: "bad", SKIPPED: "wait"}

TEXT = tuple(range(len(HEADINGS)))


def write_page(results: Path, out: Path) -> Path:
    """Write the page of a folder's results and return its path; raises UserError when there are none, RecordError when it cannot."""
    every = kept(results)
    if not every:
        raise UserError(
            f"there are no results in '{results / 'results'}': make some with 'fedlearn reproduce', or give their --results"
        )
    counts = Counter(claim["verdict"] for found in every for claim in found["claims"])
    lead = element(
        "p",
        f"{counts.total()} claims about {len(every)} experiments, run and compared by fedlearn reproduce",
        class_="lead",
    )
    tiles = element(
        "dl",
        *(tile(verdict, str(counts[verdict])) for verdict in CHIPS if counts[verdict]),
        class_="tiles",
    )
    with tempfile.TemporaryDirectory() as drawn:
        parts = [_experiment(found, Path(drawn)) for found in every]
    return write_document(
        out,
        "Claims – fedlearn",
        element(
            "header",
            element("p", "fedlearn", class_="kind"),
            element("h1", "Claims, and what came of them"),
            lead,
            tiles,
        ),
        _overview(every),
        *parts,
        element("footer", "Written by fedlearn. 1 MB is 1,000,000 bytes."),
    )


def _overview(every: Sequence[Result]) -> Html:
    lines = [
        [found["name"], *_shown(cells)] for found in every for cells in rows(found)
    ]
    return section_of(
        "All claims",
        table(["experiment", *HEADINGS], lines, text_columns=range(len(HEADINGS) + 1)),
        note=NOTE,
    )


def _shown(cells: Sequence[str]) -> list[object]:
    return [
        *cells[:-1],
        element("span", cells[-1], class_=f"chip {CHIPS.get(cells[-1], 'wait')}"),
    ]


def _experiment(found: Result, drawn: Path) -> Html:
    """Return an experiment's section: its claims, pictures, bytes, and how to run it again."""
    shown = element(
        "div",
        *(picture(path, caption) for path, caption in curves.draw(found, drawn)),
        class_="plots",
    )
    why = [
        element("p", f"{one['claim']}: {one['verdict']}. {one['why']}.", class_="note")
        for one in found["claims"]
        if one["why"]
    ]
    hardware, versions, made, date, seconds = origin(found)
    note = ". ".join(text for text in (found["about"], found["paper"]) if text)
    return section_of(
        found["name"],
        table(HEADINGS, map(_shown, rows(found)), text_columns=TEXT),
        *why,
        shown,
        _variants(found["runs"]),
        element("pre", again(found)),
        element(
            "p",
            f"{seconds} of rounds on {hardware}; {versions}; source {made}; {date}.",
            class_="note",
        ),
        note=f"{note}.",
    )


def _variants(runs: Sequence[Mapping[str, Any]]) -> Html:
    """Return what the runs of each variant came to: medians over the seeds."""
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        by_name.setdefault(run["variant"], []).append(run)
    lines = []
    for name, made in by_name.items():
        best = [max(run["curve"]["accuracy"], default=float("nan")) for run in made]
        rounds, bytes_, seconds = (
            statistics.median(run[key] for run in made)
            for key in ("rounds", "bytes", "seconds")
        )
        hashes = ", ".join(run["model_sha256"][:12] for run in made)
        figures = [
            f"{rounds:g}",
            percent_text(statistics.median(best)),
            bytes_text(bytes_),
            time_text(seconds),
        ]
        lines.append([name, made[0]["engine"], *figures, element("code", hashes)])
    heading = [
        "run",
        "engine",
        "rounds",
        "best accuracy",
        "bytes",
        "time",
        "model hash of each seed",
    ]
    return table(heading, lines, text_columns=(0, 1, 6))
