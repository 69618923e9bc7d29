"""Reading the folder of an app's run, finished or not, without flwr and without the app."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedlearn.apps.lines import Line, sums
from fedlearn.errors import RecordError, UserError
from fedlearn.records.names import APP_FILE, SUMMARY_FILE
from fedlearn.records.writing import read_lines


@dataclass(frozen=True)
class AppRecord:
    """What the folder of an app's run holds.

    about: what it was started with, as `APP_FILE` has it. lines: one for each round, in
    order. summary: as it was written, or the sums over the lines where it was not yet.
    """

    folder: Path
    about: Mapping[str, Any]
    lines: tuple[Line, ...]
    summary: Mapping[str, Any]
    finished: bool

    @property
    def name(self) -> str:
        """Return the app's name."""
        return str(self.about.get("name") or self.folder.name)


def read(folder: Path) -> AppRecord:
    """Read the folder of an app's run.

    Raises UserError where it has no round yet, or its `APP_FILE` is damaged, RecordError
    when the system does not let a file be read.
    """
    try:
        about = _object(folder / APP_FILE)
        lines = _lines(folder)
        summary = _object(folder / SUMMARY_FILE)
    except OSError as error:
        raise RecordError(
            f"cannot read '{error.filename}': {error.strerror}"
        ) from error
    if about is None:
        raise UserError(f"'{folder / APP_FILE}' is damaged: it is no JSON object")
    if not lines:
        raise UserError(
            f"'{folder}' holds no finished round yet. Let the run go on first."
        )
    whole = summary or {}
    codec = about.get("codec") or {}
    # What a summary of before, or none at all, does not say.
    unknown = {"model_sha256": None, "result": None, "parameters": None}
    return AppRecord(
        folder,
        about,
        lines,
        {
            **unknown,
            "codec": {way: name or "whole" for way, name in codec.items()},
            **sums(lines),
            **whole,
        },
        bool(whole),
    )


def _lines(folder: Path) -> tuple[Line, ...]:
    # Of a round that a run which went on has twice, the last.
    by_round: dict[tuple[int, int], Line] = {}
    for line in read_lines(folder):
        known: dict[str, Any] = {**_EMPTY, **line}
        by_round[known["part"], known["round"]] = known
    return tuple(by_round.values())


# A line that lacks a key is damaged, and the others can be shown all the same.
_EMPTY: dict[str, Any] = {
    "part": 1,
    "train": None,
    "evaluate": None,
    "server": None,
    "messages": 0,
    "failed": 0,
    "failures": {},
    "bytes_up": 0,
    "bytes_down": 0,
    "bytes_raw": 0,
    "seconds": 0.0,
}


def _object(path: Path) -> dict[str, Any] | None:
    """Return a file's JSON object; None: it is missing, or none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
