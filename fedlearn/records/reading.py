"""Reading a run folder, finished or not, without trusting that every file is whole."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomllib

from fedlearn.errors import RecordError, UserError

Line = Mapping[str, Any]
"""One line of metrics.jsonl; see docs/report.md for its keys."""


@dataclass(frozen=True)
class Run:
    """The files of one run folder.

    lines: one per round in ascending order; the last line of a round wins, since a resumed run may repeat a round.
    summary: empty while the run is unfinished. problems: one sentence for everything that could not be read.
    """

    folder: Path
    config_text: str
    config: Mapping[str, Any]
    manifest: Mapping[str, Any]
    summary: Mapping[str, Any]
    lines: tuple[Line, ...]
    problems: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Return the experiment's name, or the folder's where none is recorded."""
        found = (
            self.summary.get("name")
            or self.manifest.get("name")
            or section(self.config, "experiment").get("name")
        )
        return str(found or self.folder.name)

    @property
    def finished(self) -> bool:
        """Return whether the run wrote its summary."""
        return bool(self.summary)

    @property
    def planned_rounds(self) -> int | None:
        """Return how many rounds the config asks for, None when it does not say."""
        planned = number(section(self.config, "experiment"), "rounds")
        return None if planned is None else int(planned)

    @property
    def trained(self) -> tuple[Line, ...]:
        """Return the lines of rounds in which clients trained: all but round 0, the initial model's evaluation."""
        return tuple(line for line in self.lines if line["round"] > 0)


def read(folder: Path) -> Run:
    """Read a run folder.

    A torn or damaged line of metrics.jsonl is skipped, as is a damaged summary or manifest; each leaves a sentence
    in ``problems`` (a torn last line does not: that is how a running or killed run looks).
    Raises UserError when the folder is not a run folder, or holds no round yet; RecordError when the system does not
    let a file be read.
    """
    try:
        return _read(folder)
    except OSError as error:
        raise RecordError(
            f"cannot read '{error.filename}': {error.strerror}"
        ) from error


def _read(folder: Path) -> Run:
    _check(folder)
    problems: list[str] = []
    config_text = (folder / "config.toml").read_text(encoding="utf-8", errors="replace")
    try:
        config = tomllib.loads(config_text)
    except (ValueError, RecursionError) as error:
        config = {}
        problems.append(f"config.toml cannot be read ({error})")
    lines = _lines(folder / "metrics.jsonl", problems)
    if not lines:
        raise UserError(
            f"'{folder}' holds no finished round yet: its metrics.jsonl is empty. Let the run go on first."
        )
    manifest = _object(folder / "manifest.json", problems)
    summary = (
        _object(folder / "summary.json", problems)
        if (folder / "summary.json").exists()
        else {}
    )
    return Run(folder, config_text, config, manifest, summary, lines, tuple(problems))


def _check(folder: Path) -> None:
    if not folder.exists():
        raise UserError(f"there is no run folder '{folder}'")
    if not folder.is_dir():
        raise UserError(
            f"'{folder}' is a file; give the run folder that holds config.toml and metrics.jsonl"
        )
    missing = [
        name
        for name in ("config.toml", "metrics.jsonl")
        if not (folder / name).is_file()
    ]
    if not missing:
        return
    inside = sorted(
        child.name for child in folder.iterdir() if (child / "metrics.jsonl").is_file()
    )
    hint = f" Did you mean '{folder / inside[0]}'?" if inside else ""
    raise UserError(
        f"'{folder}' is not a run folder: it has no {' and no '.join(missing)}.{hint}"
    )


def _lines(path: Path, problems: list[str]) -> tuple[Line, ...]:
    texts = path.read_text(encoding="utf-8", errors="replace").splitlines()
    by_round: dict[int, Line] = {}
    damaged: list[int] = []
    for position, text in enumerate(texts, start=1):
        line = _line(text)
        if line is not None:
            by_round[line["round"]] = line
        elif text.strip() and position < len(texts):
            damaged.append(position)
    if damaged:
        problems.append(f"metrics.jsonl cannot be read at line {some_text(damaged)}")
    return tuple(by_round[key] for key in sorted(by_round))


def _line(text: str) -> Line | None:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    usable = isinstance(line, dict) and isinstance(line.get("round"), int)
    return line if usable else None


def _object(path: Path, problems: list[str]) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        problems.append(f"{path.name} is missing")
        return {}
    except (ValueError, RecursionError) as error:
        problems.append(f"{path.name} cannot be read ({error})")
        return {}
    return found if isinstance(found, dict) else {}


def some_text(values: Iterable[object], most: int = 8) -> str:
    """Return the first few values separated by commas, and how many more there are."""
    texts = [str(value) for value in values]
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more


def section(mapping: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return the table under a key, empty when there is none."""
    found = mapping.get(key)
    return found if isinstance(found, Mapping) else {}


def number(mapping: Mapping[str, Any], key: str) -> float | None:
    """Return the number under a key (it may be NaN); None when it is absent, null or not a number."""
    value = mapping.get(key)
    return (
        None if isinstance(value, bool) or not isinstance(value, int | float) else value
    )


def finite(mapping: Mapping[str, Any], key: str) -> float | None:
    """Return the number under a key, None when it is absent, null, NaN or infinite."""
    value = number(mapping, key)
    return value if value is not None and math.isfinite(value) else None
