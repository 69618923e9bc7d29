"""The page's section of real agents: their devices, what each was asked, and what came of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fedlearn.records.names import CLIENTS_FILE, DEVICES_FILE
from fedlearn.records.reading import RunRecord, amount, finite, section
from fedlearn.reporting.html import Html, folded, section_of, table
from fedlearn.reporting.units import MISSING, count_text

# What a piece of work may come to, in the journal's words; "asked" is all of them.
OUTCOMES = ("asked", "answered", "declined", "late", "failed", "refused")

# What devices tell of themselves: heading, key, how the value reads, and its factor to that unit.
DEVICE_FIGURES = (
    ("memory", "memory_mb", "{:,.0f} MB", 1.0),
    ("per step", "step_s", "{:.3g} ms", 1000.0),
    ("up", "up_mbps", "{:.3g} Mbit/s", 1.0),
    ("down", "down_mbps", "{:.3g} Mbit/s", 1.0),
    ("energy of a round", "joules", "{:.3g} J", 1.0),
)

# More rows make a page that browsers are slow to show.
MOST_ROWS = 2000

NOTE = (
    "What agents told of their devices, and what the coordinator's journal says of their work; "
    "training and evaluation together."
)


def agents(run: RunRecord) -> Html:
    """Return the page's section of agents; nothing for a run that had none."""
    clients = _read_object(run.folder / CLIENTS_FILE)
    devices = _read_object(run.folder / DEVICES_FILE)
    # Ids are numbers written as text: by length first, they are in the order of numbers.
    names = sorted({*clients, *devices}, key=lambda name: (len(name), name))
    if not names:
        return Html("")
    names = names[:MOST_ROWS]
    heading = [
        "client",
        *OUTCOMES,
        "board",
        "torch",
        *(figure[0] for figure in DEVICE_FIGURES),
    ]
    rows = [
        [
            name,
            *_outcome_counts(section(clients, name)),
            *_device_cells(section(devices, name)),
        ]
        for name in names
    ]
    work = table(heading, rows, text_columns=(0, 7, 8))
    # Why work was declined, late or failed, in the agents' own words.
    reasons = [
        row for name in names for row in _reason_rows(name, section(clients, name))
    ]
    return section_of("Agents", work, _reasons_table(reasons), note=NOTE)


def _read_object(path: Path) -> Mapping[str, Any]:
    """Return a file's object; an empty one for a file that is not there or is damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _outcome_counts(kinds: Mapping[str, Any]) -> list[str]:
    """Return how often each of `OUTCOMES` came, over all kinds of work."""
    tables = [counts for counts in kinds.values() if isinstance(counts, Mapping)]
    return [
        count_text(sum(amount(counts, outcome) for counts in tables))
        for outcome in OUTCOMES
    ]


def _device_cells(device: Mapping[str, Any]) -> list[str]:
    """Return a device's board (or its chip, or its kind of machine), torch, and figures."""
    names = [device.get(key) for key in ("board", "chip", "machine")]
    board = next((str(name) for name in names if name), MISSING)
    cells = [board, str(device.get("torch", MISSING))]
    for _, key, text, factor in DEVICE_FIGURES:
        value = finite(device, key)
        if value is None:
            # An agent tells only what its device lets it measure.
            cells.append(MISSING)
        else:
            cells.append(text.format(value * factor))
    return cells


def _reason_rows(name: str, kinds: Mapping[str, Any]) -> Iterator[list[str]]:
    """Yield why work of a client was not used: client, kind of work, reason, how often."""
    for kind in kinds:
        reasons = section(section(kinds, kind), "reasons")
        for reason in reasons:
            yield [name, kind, reason, count_text(finite(reasons, reason))]


def _reasons_table(reasons: list[list[str]]) -> Html:
    if not reasons:
        return Html("")
    heading = ["client", "work", "reason", "times"]
    # Folded, for a fleet of thousands may have thousands.
    reasons_table = table(heading, reasons, text_columns=(0, 1, 2))
    return folded(f"Why: {len(reasons)} reasons", reasons_table)
