"""The scalars of a run as TensorBoard event files (extra ``tensorboard``)."""

from __future__ import annotations

import importlib
import math
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from fedlearn.errors import RecordError, UserError
from fedlearn.records.reading import RunRecord, finite, number, section

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


def write_events(run: RunRecord, label: str, directory: Path) -> Path:
    """Write the scalars of a run, one step per round, into a new folder of that label, and return the folder.

    Written are the numbers of each metrics line, ``bytes_total`` (both directions, all rounds so far), the clients'
    evaluation as ``clients/…`` and the seconds of each phase as ``phase/…``. Wall times are the run's own.
    Raises UserError without the extra, or when the folder has events already; RecordError when it cannot be written.
    """
    writers, summaries, events = _tensorboard()
    folder = directory / (
        "".join(c if c.isalnum() or c in "-_." else "_" for c in label).lstrip(".")
        or "run"
    )
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
    at_s, total = _started_s(run), 0.0
    for line in run.lines:
        at_s += finite(line, "seconds") or 0
        total += (finite(line, "bytes_up") or 0) + (finite(line, "bytes_down") or 0)
        values = [
            summaries.Summary.Value(tag=tag, simple_value=value)
            for tag, value in _scalars(line, total).items()
        ]
        writer.add_event(
            events.Event(
                wall_time=at_s,
                step=line["round"],
                summary=summaries.Summary(value=values),
            )
        )
    writer.close()
    return folder


def _tensorboard() -> list[Any]:
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


def _scalars(line: Any, total: float) -> dict[str, float]:
    found = {key: number(line, key) for key in KEYS} | {"bytes_total": total}
    for name, table in (
        ("clients", "clients_evaluation"),
        ("phase", "seconds_by_phase"),
    ):
        inside = section(line, table)
        found |= {f"{name}/{key}": number(inside, key) for key in inside}
    return {
        key: value
        for key, value in found.items()
        if value is not None and not math.isinf(value)
    }


def _started_s(run: RunRecord) -> float:
    try:
        return datetime.fromisoformat(str(run.manifest.get("started"))).timestamp()
    except ValueError:
        return time.time() - sum(finite(line, "seconds") or 0 for line in run.lines)
