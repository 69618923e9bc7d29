"""Several runs side by side: for a terminal, as aligned text, as CSV, and which config keys differ."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from fedlearn.records.reading import RunRecord
from fedlearn.reporting.results import (
    Results,
    accuracy_curve,
    crossing,
    labels,
    results,
)
from fedlearn.reporting.units import (
    bytes_text,
    count_text,
    number_text,
    percent_text,
    ratio_text,
    time_text,
)

Value = float | str | None


@dataclass(frozen=True)
class Column:
    """One column: its key in CSV, its heading for people, and how a value reads."""

    key: str
    heading: str
    text: Callable[[Any], str] = str


COLUMNS = (
    Column("name", "run"),
    Column("accuracy", "accuracy", percent_text),
    Column("best_accuracy", "best", percent_text),
    Column("loss", "loss", number_text),
    Column("rounds", "rounds", count_text),
    Column(
        "rounds_to_target",
        "rounds to target",
        lambda value: "-" if value is None else f"{value:.1f}",
    ),
    Column("bytes_to_target", "bytes to target", bytes_text),
    Column("bytes_up", "up", bytes_text),
    Column("bytes_down", "down", bytes_text),
    Column("bytes_total", "total", bytes_text),
    Column("ratio_to_raw", "vs float32", lambda value: ratio_text(value, 1)),
    Column("seconds", "time", time_text),
    Column("seconds_training", "training", time_text),
    Column("engine", "engine", lambda value: value or "-"),
    Column("model_sha256", "model hash", lambda value: value[:12] or "-"),
)


def row(run: RunRecord, label: str, target: float) -> dict[str, Value]:
    """Return the values of one run by column key. Shares are of 1, bytes and seconds plain numbers."""
    found: Results = results(run)
    curve = accuracy_curve(run.lines)
    return {
        "name": label if run.finished else f"{label} (unfinished)",
        "accuracy": found.accuracy,
        "best_accuracy": found.best_accuracy,
        "loss": found.loss,
        "rounds": found.rounds,
        "rounds_to_target": crossing(curve.rounds, curve.accuracy, target),
        "bytes_to_target": crossing(curve.bytes_total, curve.accuracy, target),
        "bytes_up": found.bytes_up,
        "bytes_down": found.bytes_down,
        "bytes_total": found.bytes_total,
        "ratio_to_raw": found.bytes_raw / found.bytes_total
        if found.bytes_total
        else None,
        "seconds": found.seconds,
        "seconds_training": found.seconds_training,
        "engine": found.engine,
        "model_sha256": found.model_sha256,
    }


def rows(runs: Sequence[RunRecord], target: float) -> list[dict[str, Value]]:
    """Return one row per run, in the order given."""
    return [
        row(run, label, target) for run, label in zip(runs, labels(runs), strict=True)
    ]


def cells(found: Sequence[Mapping[str, Value]]) -> list[list[str]]:
    """Return the texts of the table: a line of headings, then one line per run."""
    return [
        [c.heading for c in COLUMNS],
        *([c.text(values[c.key]) for c in COLUMNS] for values in found),
    ]


def plain(lines: Sequence[Sequence[str]], left: int = 1) -> str:
    """Return the lines aligned with spaces: so many columns to the left, all others to the right."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    made = []
    for line in lines:
        padded = [
            text.ljust(width) if i < left else text.rjust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        ]
        made.append("  ".join(padded).rstrip() + "\n")
    return "".join(made)


def print_table(found: Sequence[Mapping[str, Value]], stream: TextIO) -> None:
    """Print the table: drawn by rich on a terminal (turned on its side where it is too wide), else aligned text."""
    lines = cells(found)
    if not stream.isatty():
        stream.write(plain(lines))
        return
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        stream.write(plain(lines))
        return
    console = Console(file=stream)
    if len(plain(lines).splitlines()[0]) + len(COLUMNS) > console.width:
        lines = [list(line) for line in zip(*lines, strict=True)]
    table = Table(box=None, header_style="bold", pad_edge=False)
    for position, heading in enumerate(lines[0]):
        table.add_column(
            Text(heading), justify="right" if position else "left", overflow="fold"
        )
    for line in lines[1:]:
        table.add_row(*map(Text, line))  # as Text: names are no markup
    console.print(table)


def csv_text(found: Sequence[Mapping[str, Value]]) -> str:
    """Return the table as CSV with full precision: shares of 1, bytes and seconds as numbers, empty when unknown."""
    out = io.StringIO()
    writer = csv.DictWriter(
        out, [column.key for column in COLUMNS], lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(found)
    return out.getvalue()


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested tables as one, keys joined by dots: {"train": {"lr": 1}} gives {"train.lr": 1}."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def differences(configs: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return the config keys that differ between runs, with each run's value (None: not set); names are left out."""
    flat = [flatten(config) for config in configs]
    keys = dict.fromkeys(key for config in flat for key in config)
    found = {
        key: [config.get(key) for config in flat]
        for key in keys
        if key != "experiment.name"
    }
    return {
        key: values
        for key, values in found.items()
        if any(value != values[0] for value in values)
    }
