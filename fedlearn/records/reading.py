"""Reading a run folder, finished or not, without trusting that every file is whole."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomllib

from fedlearn.errors import RecordError, UserError
from fedlearn.records.line import Line
from fedlearn.records.names import (
    CONFIG_FILE,
    LINES_FILE,
    MANIFEST_FILE,
    SUMMARY_FILE,
)
from fedlearn.text import first_few


@dataclass(frozen=True)
class RunRecord:
    """What the files of one run folder hold."""

    folder: Path
    # As it stands in the file, and what it means; the latter is empty where it is damaged.
    config_text: str
    config: Mapping[str, Any]
    # Empty where it is missing or damaged.
    manifest: Mapping[str, Any]
    # Empty while the run is unfinished.
    summary: Mapping[str, Any]
    # One per round in ascending order; of a round that a resumed run repeated, the last line.
    lines: tuple[Line, ...]
    # One sentence for each thing that could not be read.
    problems: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Return the experiment's name, or the folder's where none is recorded."""
        # The summary comes last, the config first: an unfinished run has a name too.
        recorded = (
            self.summary.get("name")
            or self.manifest.get("name")
            or section(self.config, "experiment").get("name")
        )
        return str(recorded or self.folder.name)

    @property
    def finished(self) -> bool:
        """Return whether the run wrote its summary."""
        return bool(self.summary)

    @property
    def planned_rounds(self) -> int | None:
        """Return how many rounds the config asks for, None when it does not say."""
        experiment = section(self.config, "experiment")
        planned = number(experiment, "rounds")
        if planned is None:
            return None
        return int(planned)

    @property
    def trained(self) -> tuple[Line, ...]:
        """Return the lines of rounds in which clients trained.

        Round 0 is left out: it is the initial model's evaluation.
        """
        trained = [line for line in self.lines if line["round"] > 0]
        return tuple(trained)


def read(folder: Path) -> RunRecord:
    """Read a run folder.

    A damaged line of ``metrics.jsonl``, summary or manifest is left out and leaves a sentence in
    ``problems``. A torn last line leaves none: so a running or killed run looks.

    Raises UserError when the folder is not a run folder or holds no round yet, RecordError when
    the system does not let a file be read.
    """
    try:
        return _read(folder)
    except OSError as error:
        raise RecordError(
            f"cannot read '{error.filename}': {error.strerror}"
        ) from error


def _read(folder: Path) -> RunRecord:
    _check_folder(folder)
    problems: list[str] = []
    config_text = (folder / CONFIG_FILE).read_text(encoding="utf-8", errors="replace")
    try:
        config = tomllib.loads(config_text)
    except (ValueError, RecursionError) as error:
        # The figures can be shown without the config.
        config = {}
        problems.append(f"{CONFIG_FILE} cannot be read ({error})")
    lines = _read_lines(folder / LINES_FILE, problems)
    if not lines:
        raise UserError(
            f"'{folder}' holds no finished round yet: its {LINES_FILE} is empty. "
            "Let the run go on first."
        )
    manifest = _read_object(folder / MANIFEST_FILE, problems)
    summary: Mapping[str, Any] = {}
    # A run that goes on has no summary, and that is no problem.
    if (folder / SUMMARY_FILE).exists():
        summary = _read_object(folder / SUMMARY_FILE, problems)
    return RunRecord(
        folder, config_text, config, manifest, summary, lines, tuple(problems)
    )


def _check_folder(folder: Path) -> None:
    """Raise UserError for what is no run folder, with the run inside it that may be meant."""
    if not folder.exists():
        raise UserError(f"there is no run folder '{folder}'")
    if not folder.is_dir():
        raise UserError(
            f"'{folder}' is a file; "
            f"give the run folder that holds {CONFIG_FILE} and {LINES_FILE}"
        )
    required = (CONFIG_FILE, LINES_FILE)
    missing = [name for name in required if not (folder / name).is_file()]
    if not missing:
        return
    hint = ""
    runs = [child for child in folder.iterdir() if (child / LINES_FILE).is_file()]
    if runs:
        hint = f" Did you mean '{min(runs)}'?"
    raise UserError(
        f"'{folder}' is not a run folder: it has no {' and no '.join(missing)}.{hint}"
    )


def _read_lines(path: Path, problems: list[str]) -> tuple[Line, ...]:
    texts = path.read_text(encoding="utf-8", errors="replace").splitlines()
    by_round: dict[int, Line] = {}
    damaged: list[int] = []
    for position, text in enumerate(texts, start=1):
        line = _parse_line(text)
        if line is not None:
            # A resumed run repeats rounds: the last line is the one that its model is of.
            by_round[line["round"]] = line
        # The last line may be torn: so a run that goes on, or was killed, looks.
        elif text.strip() and position < len(texts):
            damaged.append(position)
    if damaged:
        problems.append(f"{path.name} cannot be read at line {first_few(damaged)}")
    return tuple(by_round[round_number] for round_number in sorted(by_round))


def _parse_line(text: str) -> Line | None:
    """Return a line that names its round, None for any other text."""
    try:
        line: Any = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(line, dict) and isinstance(line.get("round"), int):
        return line  # type: ignore[return-value]  # other keys may be missing, see Line
    return None


def _read_object(path: Path, problems: list[str]) -> Mapping[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        problems.append(f"{path.name} is missing")
        return {}
    except (ValueError, RecursionError) as error:
        problems.append(f"{path.name} cannot be read ({error})")
        return {}
    return value if isinstance(value, dict) else {}


def section(table: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return the table under a key, empty when there is none."""
    value = table.get(key)
    return value if isinstance(value, Mapping) else {}


def number(table: Mapping[str, Any], key: str) -> float | None:
    """Return the number under a key; None when it is absent, null or not a number.

    It may be NaN or infinite: Python's JSON has both.
    """
    value = table.get(key)
    # To Python, true is a number too.
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value


def finite(table: Mapping[str, Any], key: str) -> float | None:
    """Return the number under a key; None when it is absent, null, NaN, infinite or no number."""
    value = number(table, key)
    if value is None or not math.isfinite(value):
        return None
    return value


def amount(table: Mapping[str, Any], key: str) -> float:
    """Return the number under a key, 0 where `finite` has none: for sums over lines."""
    return finite(table, key) or 0
