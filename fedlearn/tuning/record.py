"""What a search keeps: its settings and its trials, in files that are replaced whole, so that a kill loses nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fedlearn.errors import RecordError
from fedlearn.records.names import LOCK_FILE
from fedlearn.records.writing import RunFolder
from fedlearn.tuning.objectives import Curve, Figures, Objectives
from fedlearn.tuning.space import Values

SETTINGS, TRIALS, BASE = "tune.json", "trials.json", "base.toml"
BEGUN = (LOCK_FILE, BASE, f".{BASE}.part", f".{SETTINGS}.part")
"""What a search that was killed while it started leaves, before its settings are written."""


@dataclass(frozen=True)
class Settings:
    """What a search was asked for. rounds: of a trial, None = the config's; sampler "grid": every point."""

    search: dict[str, str]
    sampler: str
    objectives: tuple[str, ...]
    target: float | None
    prune: str
    rounds: int | None
    trials: int
    jobs: int
    seed: int

    @property
    def asked(self) -> Objectives:
        """Return the objectives."""
        return Objectives(self.objectives, self.target)


@dataclass(frozen=True)
class Trial:
    """One trial; they count from 1. state: "running", also of one that was interrupted, "complete", "pruned" or "failed".

    run: the folder of its run, beside this record; that of an earlier trial with the same values, where there is one.
    """

    number: int
    values: Values
    run: str
    state: str = "running"
    reason: str = ""
    figures: Figures | None = None
    curve: Curve = ()
    model_sha256: str = ""
    memory: Mapping[str, Any] | None = None  # of the sampler

    @property
    def own(self) -> bool:
        """Tell whether the run is its own, and not that of an earlier trial."""
        return self.run == folder_name(self.number)

    def repeats(self, earlier: Trial) -> Trial:
        """Return this trial with what an earlier one of the same values came to."""
        return replace(earlier, number=self.number, memory=self.memory)


def folder_name(number: int) -> str:
    """Return the name of the folder of a trial's run."""
    return f"trial-{number:03d}"


def write_settings(folder: RunFolder, settings: Settings, base: str) -> None:
    """Write what was asked for. base: the config that trials change, as TOML; it comes first, for settings say that it is whole."""
    folder.write(BASE, base)
    folder.write_json(SETTINGS, asdict(settings))


def read_settings(path: Path) -> Settings:
    """Return what a search was asked for; raises RecordError when its folder does not tell."""
    table = _json(path / SETTINGS)
    try:
        return Settings(**{**table, "objectives": tuple(table["objectives"])})
    except (TypeError, KeyError) as error:
        raise RecordError(
            f"{path / SETTINGS} is not what this version of fedlearn writes ({error}); start anew"
        ) from None


def write_trials(folder: RunFolder, trials: Sequence[Trial]) -> None:
    """Write the trials."""
    folder.write_json(TRIALS, {"trials": [asdict(trial) for trial in trials]})


def read_trials(path: Path) -> list[Trial]:
    """Return the trials of a search, none when it was killed before the first; raises RecordError when they cannot be read."""
    if not (path / TRIALS).exists():
        return []
    try:
        return [_trial(table) for table in _json(path / TRIALS)["trials"]]
    except (TypeError, KeyError, ValueError) as error:
        raise RecordError(
            f"{path / TRIALS} is not what this version of fedlearn writes ({error}); start anew"
        ) from None


def _trial(table: Mapping[str, Any]) -> Trial:
    told = table["figures"]
    curve = tuple((int(round), float(accuracy)) for round, accuracy in table["curve"])
    return Trial(
        **{**table, "figures": Figures(**told) if told else None, "curve": curve}
    )


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecordError(f"cannot read {path}: {error}") from None
