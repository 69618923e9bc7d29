"""The files of a search: its settings and its trials.

They are replaced whole, so that a kill loses nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fedlearn.errors import RecordError
from fedlearn.records.names import LOCK_FILE
from fedlearn.records.writing import RunFolder
from fedlearn.tuning.objectives import Curve, Objectives, TrialFigures
from fedlearn.tuning.space import Values

# Of the folder of a search; each trial's run has a folder of its own in it.
SETTINGS = "tune.json"
TRIALS = "trials.json"
BASE = "base.toml"

# What a search leaves that was killed while it started, before its settings are written.
BEGUN = (LOCK_FILE, BASE, f".{BASE}.part", f".{SETTINGS}.part")


@dataclass(frozen=True)
class SearchSettings:
    """What a search was asked for. The names of the fields are keys in ``tune.json``.

    search: key → range, as texts. sampler: a name of `fedlearn.tuning.sampling.SAMPLERS`;
    "grid": every point. rounds: of a trial; None: the config's. jobs: trials at a time.
    """

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
    def criteria(self) -> Objectives:
        """Return what trials are judged by."""
        return Objectives(self.objectives, self.target)


@dataclass(frozen=True)
class Trial:
    """One trial; they count from 1. The names of the fields are keys in ``trials.json``.

    run: the folder of its run, beside this record; an earlier trial's with the same
    values, where there is one. state: "running", also of one that was interrupted,
    "complete", "pruned" or "failed". memory: what the sampler keeps with it.
    """

    number: int
    values: Values
    run: str
    state: str = "running"
    reason: str = ""
    figures: TrialFigures | None = None
    curve: Curve = ()
    model_sha256: str = ""
    memory: Mapping[str, Any] | None = None

    @property
    def has_own_run(self) -> bool:
        """Tell whether the run is its own, and not that of an earlier trial."""
        return self.run == folder_name(self.number)

    def repeats(self, earlier: Trial) -> Trial:
        """Return this trial with what an earlier one of the same values came to."""
        # The sampler asked for this one: its memory is of this number.
        return replace(earlier, number=self.number, memory=self.memory)


def folder_name(number: int) -> str:
    """Return the name of the folder of a trial's run."""
    return f"trial-{number:03d}"


def write_settings(folder: RunFolder, settings: SearchSettings, base: str) -> None:
    """Write what was asked for; raises RecordError.

    base: the config that trials change, as TOML.
    """
    # The config first: where there are settings, the config is whole.
    folder.write(BASE, base)
    folder.write_json(SETTINGS, asdict(settings))


def read_settings(path: Path) -> SearchSettings:
    """Return what a search was asked for; raises RecordError when it cannot be read."""
    table = _json(path / SETTINGS)
    try:
        # JSON has lists for tuples.
        table = {**table, "objectives": tuple(table["objectives"])}
        return SearchSettings(**table)
    except (TypeError, KeyError) as error:
        raise _of_another_version(path / SETTINGS, error) from None


def write_trials(folder: RunFolder, trials: Sequence[Trial]) -> None:
    """Write the trials; raises RecordError."""
    tables = [asdict(trial) for trial in trials]
    # A table at the top: keys may be added, and a list has none.
    folder.write_json(TRIALS, {"trials": tables})


def read_trials(path: Path) -> list[Trial]:
    """Return the trials of a search; none when it was killed before the first.

    Raises RecordError when they cannot be read.
    """
    if not (path / TRIALS).exists():
        return []
    try:
        return [_trial(table) for table in _json(path / TRIALS)["trials"]]
    except (TypeError, KeyError, ValueError) as error:
        raise _of_another_version(path / TRIALS, error) from None


def _trial(table: Mapping[str, Any]) -> Trial:
    """Return a trial from JSON."""
    # JSON has lists for tuples, and tables for dataclasses.
    fields = dict(table)
    fields["curve"] = tuple(
        (int(number), float(accuracy)) for number, accuracy in table["curve"]
    )
    fields["figures"] = None
    if table["figures"]:
        fields["figures"] = TrialFigures(**table["figures"])
    return Trial(**fields)


def _json(path: Path) -> Any:
    """Return the content of a JSON file; raises RecordError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecordError(f"cannot read {path}: {error}") from None


def _of_another_version(path: Path, error: Exception) -> RecordError:
    """Return the error of a file whose keys are not those of this version."""
    return RecordError(
        f"{path} is not what this version of fedlearn writes ({error}); start anew"
    )
