"""What learning takes, done by our own commands as library calls.

FLEET/learn/learning.json   the record
FLEET/learn/runs/N          the run of learning N
FLEET/learn/packages/N      its signed package
FLEET/learn/fleet.log       what happened

Each step looks first for what it made before: a crash between a step and its record costs nothing.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlearn.errors import RunError, UserError
from fedlearn.exchange.releases import ReleaseId, WatchLimits
from fedlearn.package import content, signature
from fedlearn.package.content import Package
from fedlearn.records.names import MODEL_FILE, SUMMARY_FILE
from fedlearn.records.writing import read_lines
from fedlearn.release import rollouts
from fedlearn.release.fleet_runs import wish
from fedlearn.release.fleet_status import entries_of, is_served
from fedlearn.release.learn_file import LearnFile
from fedlearn.release.learning import FleetSight, LearnRecord, TrainedWeights
from fedlearn.release.registry import Registry
from fedlearn.release.rollouts import RolloutOptions
from fedlearn.release.run_store import RunPhase, RunStore
from fedlearn.release.shelf import PackageShelf
from fedlearn.server.fleet_board import LEAST_REQUESTS
from fedlearn.server.release import ReleaseKey, read_key
from fedlearn.server.rollout_plan import RolloutPhase

if TYPE_CHECKING:
    from fedlearn.config import Experiment
    from fedlearn.records.writing import RunFolder
    from fedlearn.reporting.progress import Progress

LEARN_FOLDER = "learn"

# How often we look whether the fleet's run has ended.
_LOOK_S = 0.5

# Of a fleet's run that brings no model, and is begun again.
_BROKEN_OFF = (RunPhase.FAILED, RunPhase.STOPPED)


@dataclass(frozen=True)
class LearnPaths:
    """Where everything lies, as a file beside which paths are read says."""

    file: Path
    fleet: Path
    config: str
    registry: Path
    key: Path

    @property
    def folder(self) -> Path:
        """Return where learning keeps what is its own."""
        return self.fleet / LEARN_FOLDER

    @classmethod
    def of(cls, path: Path, file: LearnFile) -> LearnPaths:
        """Return the paths of a file. Raises UserError for what is not there."""
        beside = path.parent
        section = file.learn
        config = beside / section.config
        # A shipped experiment has a name, and no file here.
        name = str(config) if config.exists() else section.config
        paths = cls(
            path,
            beside / section.fleet,
            name,
            beside / section.registry,
            beside / section.key,
        )
        if not paths.key.is_file():
            raise UserError(
                f"{path}: learn.key: there is no '{paths.key}'; fedlearn sign --new-key DIR "
                "makes one"
            )
        return paths


class FleetLearning:
    """See the module; implements `fedlearn.release.learner.LearnWork`."""

    def __init__(
        self,
        paths: LearnPaths,
        file: LearnFile,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Take what the file says. Raises UserError for another folder, or a key that is none."""
        rollouts.opened(paths.fleet).close()
        self._paths = paths
        self._file = file
        self._clock = clock
        self._key = _signing_key(paths.key)

    def look(self) -> FleetSight:
        """Return what is seen of the fleet now."""
        store = rollouts.opened(self._paths.fleet)
        try:
            newest = store.newest()
            reports = store.reports()
        finally:
            store.close()
        entries = entries_of(self._paths.fleet)
        served = sum(entry.served for entry in entries.values())
        if newest is None:
            return FleetSight(self._clock(), None, served)
        plan, progress = newest
        is_done = progress.phase is RolloutPhase.DONE
        serving = plan.release if is_done else plan.previous
        drifts = []
        for device, entry in entries.items():
            if entry.figures.requests < LEAST_REQUESTS or device not in reports:
                continue
            report = reports[device]
            # A trial's figures are of another model.
            if report.committed == serving and report.trial is None:
                drifts.append(entry.figures.drift)
        rolling = plan.release if progress.phase in rollouts.OPEN else None
        return FleetSight(self._clock(), serving, served, tuple(drifts), rolling)

    def train(self, record: LearnRecord) -> TrainedWeights:
        """Run from the weights of the record's base; a run that began before goes on."""
        folder = self._run(record)
        is_finished = (folder / SUMMARY_FILE).exists() and (
            folder / MODEL_FILE
        ).exists()
        if not is_finished:
            self._train(record, folder)
        accuracies = []
        for line in read_lines(folder):
            if line.get("accuracy") is not None:
                accuracies.append(float(line["accuracy"] or 0.0))
        if not accuracies:
            raise RunError(f"the run in '{folder}' was never scored")
        # Of round 0: the weights that it started from.
        return TrainedWeights(accuracies[0], accuracies[-1])

    def release(self, record: LearnRecord) -> ReleaseId:
        """Make the run's model a signed candidate; one that is there already is that one."""
        place = self._place(record)
        with Registry(self._paths.registry, create=True) as registry:
            if not place.exists():
                self._build(record, registry, place)
            package = content.read(place, needs_deltas=True)
            signed = signature.sign(package, self._key.sign, self._key.public_pem)
            content.write_signatures(place, [signed])
            run = str(self._run(record).resolve())
            # Where it is there already no alias moves: it may be stable by now.
            package = content.read(place, needs_deltas=True)
            registry.add(package, run=run, alias=None)
        return _name(package)

    def roll_out(self, record: LearnRecord) -> int:
        """Begin the record's rollout, if it has not begun; returns its number."""
        release = record.release
        store = rollouts.opened(self._paths.fleet)
        try:
            numbers = [
                plan.number for plan, _ in store.rollouts() if plan.release == release
            ]
        finally:
            store.close()
        if numbers:
            return numbers[-1]
        plan = rollouts.start(self._paths.fleet, self._place(record), self._options())
        return plan.number

    # Steps

    def _train(self, record: LearnRecord, folder: Path) -> None:
        """Run in a folder, or go on with the run there."""
        assert record.base is not None
        weights = PackageShelf(self._paths.fleet).place(record.base).resolve()
        if not weights.exists():
            raise UserError(
                f"the fleet's package of {record.base} is not in '{weights.parent}' any more; "
                "copy it there under this name"
            )
        changes = [*self._file.learn.set, f"model.weights={weights}"]
        if self._file.learn.clients == "fleet":
            self._have_fleet_run(changes, folder)
        else:
            self._simulate(changes, folder)

    def _simulate(self, changes: list[str], folder: Path) -> None:
        # Late: torch and flwr take seconds.
        from fedlearn.runs.start import run_in_folder

        run_in_folder(
            _execute,
            config=self._paths.config,
            changes=changes,
            out=folder,
            resume=folder.exists(),
            quiet=True,
            resume_command=shlex.join(["fedlearn", "learn", str(self._paths.file)]),
            check_expected=False,
        )

    def _have_fleet_run(self, changes: list[str], folder: Path) -> None:
        """Have the fleet's coordinator run, and wait for it. Raises RunError where it fails."""
        place = folder.resolve()
        store = RunStore(self._paths.fleet)
        try:
            run = store.newest_in(place)
            # One that goes on is this learning's own, of before a crash.
            if run is None or run.phase in _BROKEN_OFF:
                wish(self._paths.fleet, self._paths.config, changes, place)
            while True:
                run = store.newest_in(place)
                assert run is not None
                if run.phase is RunPhase.DONE:
                    return
                if run.phase in _BROKEN_OFF:
                    outcome = run.phase.name.lower()
                    raise RunError(
                        f"run {run.number} of the fleet is {outcome}: {run.reason}"
                    )
                if not is_served(self._paths.fleet):
                    raise RunError(
                        f"nobody serves the fleet '{self._paths.fleet}', which is to run; "
                        "start fedlearn fleet"
                    )
                time.sleep(_LOOK_S)
        finally:
            store.close()

    def _build(self, record: LearnRecord, registry: Registry, place: Path) -> None:
        """Write the package of a run, as a difference from what the fleet serves."""
        from fedlearn.release.building import base_of, inherited, release
        from fedlearn.release.packing import Wishes
        from fedlearn.runs.trained import load

        serving = record.base
        assert serving is not None
        # A registry that is new begins with what the fleet serves: differences lead from there.
        if registry.newest(serving.name) is None:
            shelf = PackageShelf(self._paths.fleet)
            registry.add(content.read(shelf.place(serving)), alias="")
        trained = load(str(self._run(record)))
        base = base_of(registry, serving.name)
        wishes = Wishes(name=serving.name, counter=serving.counter + 1)
        release(trained, place, inherited(wishes, base), base)

    def _options(self) -> RolloutOptions:
        section = self._file.rollout
        never = float("inf")
        limits = WatchLimits(
            LEAST_REQUESTS,
            never if section.errors is None else section.errors,
            never if section.p99_ms is None else section.p99_ms,
        )
        return RolloutOptions(
            shares=tuple(section.shares),
            most_failed=section.most_failed,
            silence_s=section.silence_s,
            limits=limits,
        )

    def _run(self, record: LearnRecord) -> Path:
        return self._paths.folder / "runs" / str(record.number)

    def _place(self, record: LearnRecord) -> Path:
        return self._paths.folder / "packages" / str(record.number)


def _execute(
    experiment: Experiment, folder: RunFolder, display: Progress, resume: bool
) -> dict[str, Any]:
    from fedlearn.runs.simulation import simulate

    return simulate(experiment, folder, display, resume)


def _signing_key(path: Path) -> ReleaseKey:
    key = read_key(path)
    if not key.signs_models:
        raise UserError(
            f"'{path}' is an Ed25519 key, which signs no models; make another one: fedlearn "
            "sign --new-key DIR"
        )
    return key


def _name(package: Package) -> ReleaseId:
    manifest = package.manifest
    return ReleaseId(manifest.name, manifest.counter, package.sha256)
