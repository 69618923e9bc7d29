"""Runs over a fleet's agents, in the fleet's own coordinator: agents stay when a run ends.

It is the run of ``fedlearn serve``: the same engine, the same questions, a journal of its own in
the run's folder. So it has the model of a simulation, and a coordinator that is killed goes on
where it was. What differs is whose connections it uses.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomllib

from fedlearn.errors import (
    ConfigError,
    FedlearnError,
    RunStopped,
    UserError,
    reason_of,
)
from fedlearn.records.names import (
    ADDRESS_FILE,
    CLIENTS_FILE,
    DEVICES_FILE,
    JOURNAL_FOLDER,
    SUMMARY_FILE,
)
from fedlearn.release.fleet_status import is_fleet
from fedlearn.release.run_stopping import REASON, StopWatch
from fedlearn.release.run_store import OVER, FleetRun, RunPhase, RunStore
from fedlearn.server.fleet_service import FleetService, RunService
from fedlearn.server.journal import Journal
from fedlearn.server.quota import quota_bytes
from fedlearn.server.witness import took_part

if TYPE_CHECKING:
    from fedlearn.config import Experiment
    from fedlearn.records.writing import RunFolder
    from fedlearn.reporting.progress import Progress
    from fedlearn.runs.layers import Site, Stack

RUNS_FOLDER = "runs"

# Models are scored in the coordinator's own process: workers forked beside gRPC's threads hang.
ENGINE = "engine.kind=serial"

# How often we look whether enough agents attend.
_POLL_S = 0.1


def wish(
    fleet: Path, config: str, changes: list[str], out: Path | None
) -> tuple[int, Path]:
    """Write down a run for a fleet's coordinator; returns its number and its folder.

    out: None, a new folder in FLEET/runs; a folder with an unfinished run goes on. Raises
    UserError for another folder, ConfigError for a config that is none.
    """
    from fedlearn.config import read, to_toml
    from fedlearn.runs.names import check_names

    if not is_fleet(fleet):
        raise UserError(
            f"'{fleet}' is no fleet's folder; fedlearn fleet {fleet} makes one"
        )
    experiment = read(config, [*changes, ENGINE])
    check_names(experiment)
    store = RunStore(fleet)
    try:
        if out is None:
            count = 1 + len(store.runs())
            out = fleet / RUNS_FOLDER / f"{experiment.experiment.name}-{count}"
        folder = out.resolve()
        before = store.newest_in(folder)
        if before is not None and before.phase not in OVER:
            raise ConfigError(
                f"run {before.number} is in '{folder}' already; wait for it"
            )
        return store.wish(to_toml(experiment), folder), folder
    finally:
        store.close()


def do_next(fleet: Path, service: FleetService) -> bool:
    """Do the run that is to be done next, to its end; returns whether there was one.

    A run that fails is noted with its reason, and its fleet goes on. Raises RecordError where
    the list of runs cannot be used.
    """
    store = RunStore(fleet)
    try:
        run = store.next()
        if run is None:
            return False
        phase, reason = _done(run, fleet, service, store)
        store.keep(run.number, phase, reason)
        outcome = f"run {run.number} is {phase.name.lower()}"
        service.log.note(f"{outcome}: {reason or run.folder}")
        return True
    finally:
        store.close()


def _done(
    run: FleetRun, fleet: Path, service: FleetService, store: RunStore
) -> tuple[RunPhase, str]:
    """Do a run to its end; returns where it stands then, and why."""
    # Before it began, or before the coordinator was killed.
    if store.is_stop_wanted(run.number):
        return RunPhase.STOPPED, REASON
    store.keep(run.number, RunPhase.RUNNING)
    service.log.note(f"run {run.number} begins: {run.folder}")
    try:
        _do(run, fleet, service)
    except RunStopped as error:
        return RunPhase.STOPPED, reason_of(error)
    except FedlearnError as error:
        return RunPhase.FAILED, reason_of(error)
    return RunPhase.DONE, ""


def _do(run: FleetRun, fleet: Path, service: FleetService) -> None:
    # Late: a coordinator without runs needs neither torch nor flwr.
    from fedlearn.runs.start import run_in_folder

    visit = _Visit(fleet, service)
    config: Mapping[str, Any] = tomllib.loads(run.config)
    with StopWatch(fleet, run.number, service):
        run_in_folder(
            visit.execute,
            config=config,
            out=run.folder,
            resume=run.folder.exists(),
            quiet=True,
            resume_command=shlex.join(["fedlearn", "fleet", str(fleet)]),
            check_expected=False,
        )


class _Visit:
    """One run's stay with a fleet."""

    def __init__(self, fleet: Path, service: FleetService) -> None:
        self._fleet = fleet
        self._service = service
        self._journal: Journal | None = None
        self._clients = 0

    def execute(
        self, experiment: Experiment, folder: RunFolder, display: Progress, resume: bool
    ) -> dict[str, Any]:
        """Run an experiment over the fleet's agents, and return its summary."""
        from fedlearn.runs.simulation import simulate

        def layer(stack: Stack, site: Site) -> Stack:
            return self._layer(stack, site, folder)

        try:
            summary = simulate(experiment, folder, display, resume, layer)
            # The engine of the config only scores; the agents did the work.
            summary["engine"] = "fleet"
            folder.write_json(SUMMARY_FILE, summary)
            return summary
        finally:
            self._end(folder)

    def _layer(self, stack: Stack, site: Site, folder: RunFolder) -> Stack:
        """Return a stack that asks the fleet's agents."""
        from fedlearn.engine.fleet import Fleet
        from fedlearn.runs.fleets import with_fleet
        from fedlearn.runs.hosting import run_id
        from fedlearn.runs.serving import LEAST_ROOM

        settled = site.settled
        self._check(settled.clients)
        # Who asks how the run is doing learns whose it is, and what goes on with it.
        fleet_path = str(self._fleet.resolve())
        folder.write_json(ADDRESS_FILE, {"fleet": fleet_path})
        self._clients = settled.clients
        place = folder.path / JOURNAL_FOLDER
        journal = Journal(place, quota_bytes(place, None))
        self._journal = journal
        most_bytes = 2 * site.parts.layout.raw_bytes + LEAST_ROOM
        brief = settled.brief.to_json()
        self._service.enter(run_id(folder), brief, most_bytes, journal)
        service = RunService(self._service, settled.clients)
        section = settled.experiment.fleet
        enough = min(settled.clients, section.min_agents or 1)
        fleet = Fleet(
            site.runner,
            stack.engine,
            service,
            journal,
            site.memory.downlink,
            section,
            ready=lambda: _wait(service, enough),
        )
        return with_fleet(stack, site, fleet)

    def _check(self, clients: int) -> None:
        """Raise ConfigError for clients that no device of the fleet can be."""
        devices = self._service.rounds.clients
        if clients > devices:
            raise ConfigError(
                f"the experiment has {clients} clients, and the fleet's ids end at "
                f"{devices - 1}; start fedlearn fleet with --devices {clients}, or --set "
                f"data.partition.clients={devices}"
            )

    def _end(self, folder: RunFolder) -> None:
        journal = self._journal
        if journal is None:
            return
        self._service.leave()
        journal.close()
        try:
            table = took_part(journal)
            if table:
                folder.write_json(CLIENTS_FILE, table)
            facts = {
                str(client): self._service.devices[client]
                for client in sorted(self._service.devices)
                if client < self._clients
            }
            folder.write_json(DEVICES_FILE, facts)
        except FedlearnError as error:
            # Why the run ends is said already, or it has ended well.
            self._service.log.note(f"{CLIENTS_FILE} is not written: {error}")


def _wait(service: RunService, enough: int) -> None:
    """Wait until so many of the run's clients attend."""
    while len(service.attending()) < enough:
        time.sleep(_POLL_S)
