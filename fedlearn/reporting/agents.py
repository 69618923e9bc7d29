"""A run over real agents: what each client was asked, what came of it, and on which device."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedlearn.records.names import CLIENTS_FILE, DEVICES_FILE
from fedlearn.records.reading import RunRecord, finite, section
from fedlearn.reporting.html import Html, folded, section_of, table
from fedlearn.reporting.units import count_text

OUTCOMES = ("asked", "answered", "declined", "late", "failed", "refused")
MOST_ROWS = 2000


def agents(run: RunRecord) -> Html:
    """Return the page's section of agents; nothing for a run that had none."""
    clients, devices = (
        _read(run.folder / CLIENTS_FILE),
        _read(run.folder / DEVICES_FILE),
    )
    names = sorted({*clients, *devices}, key=lambda name: (len(name), name))
    if not names:
        return Html("")
    rows = [
        [name, *_counts(section(clients, name)), *_device(section(devices, name))]
        for name in names[:MOST_ROWS]
    ]
    heading = [
        "client",
        *OUTCOMES,
        "board",
        "torch",
        "memory",
        "per step",
        "up",
        "down",
        "energy of a round",
    ]
    reasons = [
        [name, kind, reason, count_text(finite(found, reason))]
        for name in names[:MOST_ROWS]
        for kind, counts in section(clients, name).items()
        if isinstance(counts, Mapping)
        for found in [section(counts, "reasons")]
        for reason in found
    ]
    why = (
        folded(
            f"Why: {len(reasons)} reasons",
            table(["client", "work", "reason", "times"], reasons, (0, 1, 2)),
        )
        if reasons
        else ""
    )
    note = "What agents told of their devices, and what the coordinator's journal says of their work; training and evaluation together."
    return section_of("Agents", table(heading, rows, (0, 7, 8)), why, note=note)


def _read(path: Path) -> Mapping[str, Any]:
    """Return a file's object; an empty one for a file that is not there or is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _counts(kinds: Mapping[str, Any]) -> list[str]:
    each = [counts for counts in kinds.values() if isinstance(counts, Mapping)]
    return [
        count_text(sum(finite(counts, name) or 0 for counts in each))
        for name in OUTCOMES
    ]


def _device(told: Mapping[str, Any]) -> list[str]:
    board = next(
        (str(told[name]) for name in ("board", "chip", "machine") if told.get(name)),
        "-",
    )
    torch = str(told.get("torch", "-"))
    figures = [
        ("memory_mb", "{:,.0f} MB", 1.0),
        ("step_s", "{:.3g} ms", 1000.0),
        ("up_mbps", "{:.3g} Mbit/s", 1.0),
        ("down_mbps", "{:.3g} Mbit/s", 1.0),
        ("joules", "{:.3g} J", 1.0),
    ]
    return [
        board,
        torch,
        *(
            text.format(value * unit)
            if (value := finite(told, key)) is not None
            else "-"
            for key, text, unit in figures
        ),
    ]
