"""Several runs side by side: for a terminal, as text, as CSV, and the config keys that differ."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TextIO

from fedlearn.records.reading import RunRecord
from fedlearn.reporting.results import accuracy_curve, crossing, labels, results
from fedlearn.reporting.units import (
    MISSING,
    bytes_text,
    count_text,
    number_text,
    percent_text,
    ratio_text,
    time_text,
)

# A cell, before it is text; None: not known, or never reached.
Value = float | str | None


@dataclass(frozen=True)
class Column:
    """One column of the table."""

    # In CSV, and in the rows that `row` makes.
    key: str
    # For people.
    heading: str
    # How a value reads.
    text: Callable[[Any], str] = str


def _one_decimal(value: float | None) -> str:
    if value is None:
        return MISSING
    return f"{value:.1f}"


def _ratio(value: float | None) -> str:
    return ratio_text(value, 1)


def _text(value: str) -> str:
    return value or MISSING


def _short_hash(value: str) -> str:
    return value[:12] or MISSING


COLUMNS = (
    Column("name", "run"),
    Column("accuracy", "accuracy", percent_text),
    Column("best_accuracy", "best", percent_text),
    Column("loss", "loss", number_text),
    Column("rounds", "rounds", count_text),
    Column("rounds_to_target", "rounds to target", _one_decimal),
    Column("bytes_to_target", "bytes to target", bytes_text),
    Column("bytes_up", "up", bytes_text),
    Column("bytes_down", "down", bytes_text),
    Column("bytes_total", "total", bytes_text),
    Column("ratio_to_raw", "vs float32", _ratio),
    Column("seconds", "time", time_text),
    Column("seconds_training", "training", time_text),
    Column("engine", "engine", _text),
    Column("model_sha256", "model hash", _short_hash),
)


def row(run: RunRecord, label: str, target: float) -> dict[str, Value]:
    """Return the values of one run by column key.

    Shares and ``target``, an accuracy, are of 1; bytes and seconds are plain numbers.
    """
    figures = results(run)
    curve = accuracy_curve(run.lines)
    # A run that sent nothing has no ratio.
    ratio_to_raw = None
    if figures.bytes_total:
        ratio_to_raw = figures.bytes_raw / figures.bytes_total
    return {
        "name": label if run.finished else f"{label} (unfinished)",
        "accuracy": figures.accuracy,
        "best_accuracy": figures.best_accuracy,
        "loss": figures.loss,
        "rounds": figures.rounds,
        "rounds_to_target": crossing(curve.rounds, curve.accuracy, target),
        "bytes_to_target": crossing(curve.bytes_total, curve.accuracy, target),
        "bytes_up": figures.bytes_up,
        "bytes_down": figures.bytes_down,
        "bytes_total": figures.bytes_total,
        "ratio_to_raw": ratio_to_raw,
        "seconds": figures.seconds,
        "seconds_training": figures.seconds_training,
        "engine": figures.engine,
        "model_sha256": figures.model_sha256,
    }


def rows(runs: Sequence[RunRecord], target: float) -> list[dict[str, Value]]:
    """Return one `row` per run, in the order of the runs."""
    table_rows: list[dict[str, Value]] = []
    for run, label in zip(runs, labels(runs), strict=True):
        table_rows.append(row(run, label, target))
    return table_rows


def cells(table_rows: Sequence[Mapping[str, Value]]) -> list[list[str]]:
    """Return the texts of the table: a line of headings, then one line per run."""
    lines = [[column.heading for column in COLUMNS]]
    for values in table_rows:
        lines.append([column.text(values[column.key]) for column in COLUMNS])
    return lines


def plain(lines: Sequence[Sequence[str]], left: int = 1) -> str:
    """Return the lines aligned with spaces.

    left: how many columns stand to the left; all others, of numbers, stand to the right.
    """
    widths: list[int] = []
    for column in zip(*lines, strict=True):
        widths.append(max(map(len, column)))
    aligned = [_aligned(line, widths, left) for line in lines]
    return "\n".join([*aligned, ""])


def _aligned(line: Sequence[str], widths: Sequence[int], left: int) -> str:
    padded: list[str] = []
    for position, (text, width) in enumerate(zip(line, widths, strict=True)):
        if position < left:
            padded.append(text.ljust(width))
        else:
            padded.append(text.rjust(width))
    # A last column to the left would end in spaces.
    return "  ".join(padded).rstrip()


def print_table(table_rows: Sequence[Mapping[str, Value]], stream: TextIO) -> None:
    """Print the table: drawn by rich on a terminal, else as aligned text.

    On a terminal where it is too wide, it is turned on its side: one column per run.
    """
    lines = cells(table_rows)
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
    # rich pads each column by one space more than aligned text does.
    first_line = plain(lines).splitlines()[0]
    if len(first_line) + len(COLUMNS) > console.width:
        lines = [list(line) for line in zip(*lines, strict=True)]
    table = Table(box=None, header_style="bold", pad_edge=False)
    for position, heading in enumerate(lines[0]):
        # Names stand to the left, numbers to the right.
        side: Literal["left", "right"] = "right" if position else "left"
        table.add_column(Text(heading), justify=side, overflow="fold")
    for line in lines[1:]:
        # As Text, so that brackets in a run's name are no markup.
        table.add_row(*map(Text, line))
    console.print(table)


def csv_text(table_rows: Sequence[Mapping[str, Value]]) -> str:
    """Return the table as CSV with full precision.

    Shares are of 1, bytes and seconds plain numbers; what is not known is empty.
    """
    text = io.StringIO()
    keys = [column.key for column in COLUMNS]
    writer = csv.DictWriter(text, keys, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table_rows)
    return text.getvalue()


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested tables as one, keys joined by dots: {"a": {"b": 1}} gives {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def differences(configs: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return the config keys that differ between runs, with each run's value (None: not set).

    Names are left out: they differ in any case.
    """
    flat_configs = [flatten(config) for config in configs]
    # A dict keeps the order of the configs, which a set would not.
    keys = dict.fromkeys(key for config in flat_configs for key in config)
    keys.pop("experiment.name", None)
    differing: dict[str, list[Any]] = {}
    for key in keys:
        # None stands for a key that a config does not have: TOML has no null.
        values = [config.get(key) for config in flat_configs]
        if any(value != values[0] for value in values):
            differing[key] = values
    return differing
