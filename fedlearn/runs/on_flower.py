"""A run on Flower's own engine: SuperNodes are its clients, all else is a fleet's."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

from flwr.serverapp import Grid

from fedlearn.codec import feedback
from fedlearn.config import EngineSection, Experiment
from fedlearn.engine.fleet import Fleet
from fedlearn.errors import ConfigError, RunError
from fedlearn.records.names import CLIENTS_FILE, JOURNAL_FOLDER, LOG_FILE, SUMMARY_FILE
from fedlearn.records.writing import RunFolder
from fedlearn.reporting.progress import Progress
from fedlearn.runs import superlink
from fedlearn.runs.fleets import with_fleet
from fedlearn.runs.layers import Site, Stack
from fedlearn.runs.simulation import simulate
from fedlearn.runs.superlink import SuperLink
from fedlearn.server.journal import Journal
from fedlearn.server.observe import Log
from fedlearn.server.witness import took_part


@dataclass
class OnFlower:
    """What a run on Flower's engine holds besides the run."""

    grid: Grid
    folder: RunFolder
    log: Log
    journal: Journal

    def layer(self, stack: Stack, site: Site) -> Stack:
        """Return a stack that asks SuperNodes."""
        section = site.settled.experiment.fleet
        clients = site.settled.clients
        brief = site.settled.brief.to_json()
        link = SuperLink(self.grid, brief, self.journal, self.log)
        enough = section.min_agents or (clients if section.cohort == "all" else 1)
        fleet = Fleet(
            site.runner,
            stack.engine,
            link,
            self.journal,
            site.memory.downlink,
            section,
            ready=lambda: self._wait(link, min(clients, enough), section.deadline_s),
        )
        return replace(with_fleet(stack, site, fleet), has_apps=True)

    def close(self) -> None:
        """Write who took part, and end the journal and the log."""
        self.journal.close()
        table = took_part(self.journal)
        if table:
            self.folder.write_json(CLIENTS_FILE, table)
        self.log.close()

    def _wait(self, link: SuperLink, enough: int, patience_s: float) -> None:
        """Wait for so many clients' SuperNodes. Raises RunError when they do not come."""
        due = time.monotonic() + patience_s
        while len(clients := link.attending()) < enough:
            if time.monotonic() > due:
                reasons = "".join(
                    f"; SuperNode {node}: {reason}"
                    for node, reason in link.unused.items()
                )
                raise RunError(
                    f"{len(clients)} of {enough} clients have a SuperNode after "
                    f"{patience_s:g} s{reasons}. Start one for each client, with "
                    "--node-config 'partition-id=0' and so on, or set fleet.min_agents"
                )
            time.sleep(superlink.POLL_S)
        self.log.note(f"{len(clients)} SuperNodes attend")


def serve(
    experiment: Experiment,
    folder: RunFolder,
    display: Progress,
    resume: bool,
    grid: Grid,
) -> dict[str, Any]:
    """Run an experiment over the SuperNodes of a Grid, or go on with one.

    Returns its summary. Raises what `simulate` raises.
    """
    _check(experiment, resume)
    # Held-out samples are scored in this process: Flower runs threads in it already, and a
    # fork would copy their locks.
    section = EngineSection(kind="serial", device=experiment.engine.device)
    experiment = experiment.model_copy(update={"engine": section})
    log = Log(folder.path / LOG_FILE)
    run = OnFlower(grid, folder, log, Journal(folder.path / JOURNAL_FOLDER))
    try:
        summary = simulate(experiment, folder, display, resume, run.layer)
        summary["engine"] = "flower"
        folder.write_json(SUMMARY_FILE, summary)
    finally:
        run.close()
    return summary


def _check(experiment: Experiment, resume: bool) -> None:
    """Raise ConfigError for what does not work on Flower's engine."""
    if experiment.client.app or experiment.client.mods:
        raise ConfigError(
            "[client] app and mods do not apply under 'flwr run': name your ClientApp in "
            "pyproject.toml, as clientapp, with mods=[fedlearn.clients.app.payloads, …], "
            "or use fedlearn.clients.app.make(mods)"
        )
    section = experiment.client
    if section.run_config or section.node_config:
        raise ConfigError(
            "[client] run_config and node_config do not apply under 'flwr run': the app "
            "reads [tool.flwr.app.config], and each SuperNode its --node-config"
        )
    if resume and feedback(experiment.codec.up)[0]:
        raise ConfigError(
            f'a run with codec.up = "{experiment.codec.up}" cannot be resumed under '
            "'flwr run': SuperNodes forget what error feedback carries over when a run "
            "ends; start anew, or leave out ef+"
        )
