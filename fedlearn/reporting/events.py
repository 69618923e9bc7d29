"""The scalars of a run as TensorBoard event files (extra ``tensorboard``)."""

from __future__ import annotations

import importlib
import math
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from fedlearn.errors import RecordError, UserError
from fedlearn.records.line import Line
from fedlearn.records.reading import RunRecord, amount, number, section
from fedlearn.reporting.results import exchanged_bytes

# The keys of a line that are written as they are.
KEYS = (
    "accuracy",
    "loss",
    "train_loss",
    "clients",
    "failed",
    "seconds",
    "seconds_training",
    "bytes_up",
    "bytes_down",
)

# Tables of a line: key → the prefix of its entries.
TABLES = {"clients_evaluation": "clients", "seconds_by_phase": "phase"}


def write_events(run: RunRecord, label: str, directory: Path) -> Path:
    """Write the scalars of a run, one step per round, and return the new folder of that label.

    Written are the numbers of each metrics line, ``bytes_total`` (both directions, all rounds so
    far), the clients' evaluation as ``clients/…`` and the seconds of each phase as ``phase/…``.
    Wall times are the run's own.

    Raises UserError without the extra, or when the folder has events already; RecordError when it
    cannot be written.
    """
    writers, summaries, events = _tensorboard()
    folder = directory / _folder_name(label)
    # TensorBoard would draw both runs as one curve that jumps back.
    if any(folder.glob("events.out.tfevents.*")):
        raise UserError(
            f"'{folder}' holds events already; give --tensorboard another folder"
        )
    try:
        writer = writers.EventFileWriter(str(folder))
    except OSError as error:
        raise RecordError(
            f"cannot write events into '{folder}': {error.strerror}"
        ) from error
    moment_s = _started_s(run)
    bytes_total = 0.0
    for line in run.lines:
        # A round's event is at its end.
        moment_s += amount(line, "seconds")
        bytes_total += exchanged_bytes(line)
        values = [
            summaries.Summary.Value(tag=tag, simple_value=value)
            for tag, value in _scalars(line, bytes_total).items()
        ]
        summary = summaries.Summary(value=values)
        event = events.Event(wall_time=moment_s, step=line["round"], summary=summary)
        writer.add_event(event)
    writer.close()
    return folder


def _folder_name(label: str) -> str:
    """Return a label as the name of a folder: no separators, not hidden, not empty."""
    name = ""
    for letter in label:
        # Labels hold names from a config, which may have separators in them.
        name += letter if letter.isalnum() or letter in "-_." else "_"
    return name.lstrip(".") or "run"


def _tensorboard() -> list[Any]:
    """Return the three modules of TensorBoard that write events."""
    names = (
        "summary.writer.event_file_writer",
        "compat.proto.summary_pb2",
        "compat.proto.event_pb2",
    )
    try:
        return [importlib.import_module(f"tensorboard.{name}") for name in names]
    except ImportError as error:
        raise UserError(
            "--tensorboard needs TensorBoard: pip install 'fedlearn[tensorboard]'"
        ) from error


def _scalars(line: Line, bytes_total: float) -> dict[str, float]:
    """Return a line's numbers by tag; NaN stays, for TensorBoard shows it."""
    values = {key: number(line, key) for key in KEYS}
    values["bytes_total"] = bytes_total
    for key, prefix in TABLES.items():
        entries = section(line, key)
        for entry in entries:
            values[f"{prefix}/{entry}"] = number(entries, entry)
    return {
        tag: value
        for tag, value in values.items()
        if value is not None and not math.isinf(value)
    }


def _started_s(run: RunRecord) -> float:
    """Return when the run started, in seconds since 1970; where unknown, as if it ended now."""
    try:
        started = datetime.fromisoformat(str(run.manifest.get("started")))
    except ValueError:
        seconds = sum(amount(line, "seconds") for line in run.lines)
        return time.time() - seconds
    return started.timestamp()
