"""A simulation that leaves a profile in profile.json: where its rounds' time went.

On demand it also traces one client's operators.
"""

from __future__ import annotations

import contextlib
from typing import Any

from fedlearn.config import Experiment
from fedlearn.devices.peak import measure
from fedlearn.errors import ConfigError, FedlearnError, RecordError
from fedlearn.records.names import PROFILE_FILE, TRACE_FILE
from fedlearn.records.reading import read
from fedlearn.records.writing import RunFolder
from fedlearn.reporting.profile import (
    TrainingMeasurements,
    profile_of,
    read_measurements,
)
from fedlearn.reporting.profile_text import advice
from fedlearn.reporting.progress import Progress
from fedlearn.runs.simulation import simulate
from fedlearn.runs.watched import Watched, trace


def profiled(
    experiment: Experiment,
    folder: RunFolder,
    display: Progress,
    resume: bool,
    traced: bool = False,
) -> dict[str, Any]:
    """Run an experiment as `simulate` does, and write what was seen of it.

    The result is the same bit for bit. The machine's peak is measured once the run is
    over. A run that ends early leaves what was seen until then, and a resumed one adds to
    it. traced: also write `TRACE_FILE`. Raises what `simulate` raises.
    """
    if traced and (experiment.client.app or experiment.client.mods):
        raise ConfigError(
            "--trace shows training by [train]; "
            "what a ClientApp does is its own: take --profile"
        )
    # A resumed run adds to what its first part saw.
    watched = Watched()
    before = TrainingMeasurements()
    if resume:
        before = read_measurements(folder.path)
    try:
        summary = simulate(experiment, folder, display, resume, watch=watched.layer)
    except BaseException:
        # The run's own error is the one to tell.
        with contextlib.suppress(FedlearnError):
            _write(folder, before, watched, before.peak)
        raise
    # 0 where no round was run: then nothing is compared with the peak.
    workers = max((training.workers for training in watched.rounds.values()), default=0)
    peak = before.peak
    # Peaks are measured on the CPU; a GPU's is not comparable with its steps.
    if workers and experiment.engine.device == "cpu":
        peak = vars(measure(workers))
    _write(folder, before, watched, peak)
    if traced:
        _trace(folder, display, watched)
    return summary


def _write(
    folder: RunFolder, before: TrainingMeasurements, watched: Watched, peak: Any
) -> None:
    # Rounds seen now replace those of before: a resumed run repeats some.
    rounds = {training.round: training for training in before.rounds} | watched.rounds
    in_order = tuple(rounds[round] for round in sorted(rounds))
    run = read(folder.path)
    profile = profile_of(run, TrainingMeasurements(in_order, peak))
    if profile:
        advised = profile.plain() | {"advice": advice(profile, run)}
        folder.write_json(PROFILE_FILE, advised)


def _trace(folder: RunFolder, display: Progress, watched: Watched) -> None:
    # Nothing was trained, for instance in a run that was finished before.
    if watched.slowest is None or watched.runner is None:
        return
    try:
        trace(watched.runner, watched.slowest, folder.path / TRACE_FILE)
    except RecordError:
        raise
    # The model is the user's code, and the run is done.
    except Exception as error:
        display.note(f"no {TRACE_FILE}: {error}")
