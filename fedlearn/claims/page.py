"""The page of all claims: one file that needs nothing else, from the stored results."""

from __future__ import annotations

import statistics
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedlearn.claims import curves
from fedlearn.claims.results import (
    HEADINGS,
    NOTE,
    Result,
    command,
    origin,
    read_all,
    rows,
)
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

# Verdict → the class of its chip in the page's style.
CHIPS = {HOLDS: "good", MISSED: "bad", KNOWN: "bad", SKIPPED: "wait"}

# All columns of claims are text, also those with figures: they have units and bands.
_TEXT_COLUMNS = tuple(range(len(HEADINGS)))

# Hex digits of a model's hash that a person compares.
_HASH_DIGITS = 12

_VARIANT_HEADINGS = (
    "run",
    "engine",
    "rounds",
    "best accuracy",
    "bytes",
    "time",
    "model hash of each seed",
)


def write_page(results: Path, out: Path) -> Path:
    """Write the page of a folder's results and return its path.

    Raises UserError when there are no results, RecordError when the page cannot be
    written.
    """
    all_results = read_all(results)
    if not all_results:
        raise UserError(
            f"there are no results in '{results / 'results'}': "
            "make some with 'fedlearn reproduce', or give their --results"
        )
    # The pictures become part of the page: their files are needed no longer.
    with tempfile.TemporaryDirectory() as folder:
        sections = [_experiment(result, Path(folder)) for result in all_results]
    return write_document(
        out,
        "Claims – fedlearn",
        _header(all_results),
        _overview(all_results),
        *sections,
        element("footer", "Written by fedlearn. 1 MB is 1,000,000 bytes."),
    )


def _header(results: Sequence[Result]) -> Html:
    """Return the page's title, and how many claims came to which verdict."""
    counts = Counter(
        claim["verdict"] for result in results for claim in result["claims"]
    )
    lead = (
        f"{counts.total()} claims about {len(results)} experiments, "
        "run and compared by fedlearn reproduce"
    )
    # In the order of `CHIPS`, from good to bad; a verdict that did not occur has no tile.
    tiles = [
        tile(verdict, str(counts[verdict])) for verdict in CHIPS if counts[verdict]
    ]
    return element(
        "header",
        element("p", "fedlearn", class_="kind"),
        element("h1", "Claims, and what came of them"),
        element("p", lead, class_="lead"),
        element("dl", *tiles, class_="tiles"),
    )


def _overview(results: Sequence[Result]) -> Html:
    """Return the section of all claims in one table."""
    lines = [
        [result["name"], *_with_chip(cells)]
        for result in results
        for cells in rows(result)
    ]
    # One more than a claim has: the experiment's name.
    columns = range(len(HEADINGS) + 1)
    claims = table(["experiment", *HEADINGS], lines, text_columns=columns)
    return section_of("All claims", claims, note=NOTE)


def _with_chip(cells: Sequence[str]) -> list[object]:
    """Return a claim's cells, its verdict, the last one, in colour."""
    *texts, verdict = cells
    # A verdict of another version has no colour of its own.
    colour = CHIPS.get(verdict, "wait")
    chip = element("span", verdict, class_=f"chip {colour}")
    return [*texts, chip]


def _experiment(result: Result, folder: Path) -> Html:
    """Return an experiment's section: its claims, pictures, bytes, and its command.

    folder: where the pictures are drawn.
    """
    pictures = [picture(path, caption) for path, caption in curves.draw(result, folder)]
    reasons = [
        element("p", f"{c['claim']}: {c['verdict']}. {c['why']}.", class_="note")
        for c in result["claims"]
        if c["why"]
    ]
    note = ". ".join(text for text in (result["about"], result["paper"]) if text)
    return section_of(
        result["name"],
        table(HEADINGS, map(_with_chip, rows(result)), text_columns=_TEXT_COLUMNS),
        *reasons,
        element("div", *pictures, class_="plots"),
        _variants(result["runs"]),
        element("pre", command(result)),
        element("p", origin(result), class_="note"),
        note=f"{note}.",
    )


def _variants(runs: Sequence[Mapping[str, Any]]) -> Html:
    """Return a table of each variant's runs: medians over the seeds."""
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    # One run for each seed.
    for run in runs:
        by_name.setdefault(run["variant"], []).append(run)
    lines = [_variant(name, of_name) for name, of_name in by_name.items()]
    # The names and the hashes are text, the others numbers.
    return table(_VARIANT_HEADINGS, lines, text_columns=(0, 1, 6))


def _variant(name: str, runs: Sequence[Mapping[str, Any]]) -> list[object]:
    """Return a variant's cells, under `_VARIANT_HEADINGS`."""
    rounds, bytes_, seconds = (
        statistics.median(run[key] for run in runs)
        for key in ("rounds", "bytes", "seconds")
    )
    # NaN: the run was never evaluated.
    best = [max(run["curve"]["accuracy"], default=float("nan")) for run in runs]
    hashes = ", ".join(run["model_sha256"][:_HASH_DIGITS] for run in runs)
    return [
        name,
        runs[0]["engine"],
        f"{rounds:g}",
        percent_text(statistics.median(best)),
        bytes_text(bytes_),
        time_text(seconds),
        element("code", hashes),
    ]
