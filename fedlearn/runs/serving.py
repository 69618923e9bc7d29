"""A whole experiment over real agents: the simulation's run with agents in the place of its clients."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fedlearn.clients.agent import identity as agent_identity
from fedlearn.config import Experiment
from fedlearn.engine.fleet import Fleet
from fedlearn.errors import ConfigError, FedlearnError, RunError
from fedlearn.records.names import (
    ADDRESS_FILE,
    AGENTS_FOLDER,
    CLIENTS_FILE,
    DEVICES_FILE,
    JOURNAL_FOLDER,
    LINES_FILE,
    PKI_FOLDER,
    RUN_ID_FILE,
    SUMMARY_FILE,
)
from fedlearn.records.writing import RunFolder
from fedlearn.reporting.progress import Progress
from fedlearn.runs.fleets import modules, with_fleet
from fedlearn.runs.layers import Site, Stack
from fedlearn.runs.simulation import simulate
from fedlearn.server import identity
from fedlearn.server.figures import LOOPBACK, Lines, Pages
from fedlearn.server.journal import Journal
from fedlearn.server.observe import Log, took_part
from fedlearn.server.rounds import Rounds
from fedlearn.server.service import Address, Service

LEAST_ROOM = 1 << 20
"""Bytes that an answer may have beyond twice its model's: as a payload's own margin."""


@dataclass
class Serving:
    """What a run over agents holds besides the run: its service, journal, log, figures and local agents."""

    folder: RunFolder
    address: Address
    log: Log
    local_agents: int = 0
    metrics_port: int | None = None
    pages: Pages | None = None
    service: Service | None = None
    journal: Journal | None = None
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def layer(self, stack: Stack, site: Site) -> Stack:
        """Return a stack that asks agents: listen, and start the local ones.

        Raises ConfigError for numbers of agents that do not fit the experiment.
        """
        experiment = site.settled.experiment
        clients = site.settled.clients
        self._check(experiment, clients)
        most_bytes = 2 * site.parts.layout.raw_bytes + LEAST_ROOM
        brief = site.settled.brief.to_json()
        rounds = Rounds(run_id(self.folder), brief, clients, most_bytes)
        self.journal = Journal(self.folder.path / JOURNAL_FOLDER)
        self.service = Service(rounds, self.journal, self._where(), self.log)
        self.service.devices = self._known_devices()
        self.service.start()
        if self.metrics_port is not None:
            lines = Lines(self.folder.path / LINES_FILE)
            self.pages = Pages(
                self.metrics_port,
                self.service.figures,
                lines,
                experiment.experiment.rounds,
            )
        self._announce()
        self._start_agents(modules(experiment))
        wanted = experiment.fleet.min_agents or self.local_agents or 1
        fleet = Fleet(
            site.runner,
            stack.engine,
            self.service,
            self.journal,
            site.memory.downlink,
            experiment.fleet,
            ready=lambda: self._wait(min(clients, wanted)),
        )
        return with_fleet(stack, site, fleet)

    def _check(self, experiment: Experiment, clients: int) -> None:
        """Refuse local agents that are too many, or that would wait for others for ever."""
        local = self.local_agents
        if local > clients:
            raise ConfigError(
                f"--local-agents {local}: the experiment has {clients} clients"
            )
        fleet = experiment.fleet
        waits_for_all = fleet.cohort == "all" and not fleet.min_agents
        if 0 < local < clients and waits_for_all:
            raise ConfigError(
                f"the experiment has {clients} clients, and --local-agents {local} would "
                "wait for the others in every round; "
                f"--set data.partition.clients={local}, or choose among those that "
                "attend: --set fleet.cohort=available"
            )

    def close(self, over: bool) -> None:
        """Send the agents away and end what was started."""
        if self.service:
            self.service.stop(over)
        if self.pages:
            self.pages.close()
        if self.journal:
            self.journal.close()
            self._tell_who(self.journal)
        if self.service and self.service.devices:
            with contextlib.suppress(FedlearnError):  # a full disk has been told of
                self.folder.write_json(
                    DEVICES_FILE,
                    {
                        str(client): told
                        for client, told in sorted(self.service.devices.items())
                    },
                )
        for process in self.processes:
            try:
                if not over and process.stdin:
                    process.stdin.close()
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.log.close()

    def _tell_who(self, journal: Journal) -> None:
        """Write what each client was asked and what came of it, and note what did not come."""
        try:
            table = took_part(journal)
            if not table:
                return
            self.folder.write_json(CLIENTS_FILE, table)
        except (
            FedlearnError
        ) as error:  # why the run ends is told already, or it has ended well
            self.log.note(f"{CLIENTS_FILE} is not written: {error}")
            return
        every = [counts for kinds in table.values() for counts in kinds.values()]
        lost = {
            name: sum(counts[name] for counts in every)
            for name in ("failed", "declined", "late", "refused")
        }
        if any(lost.values()):
            told = ", ".join(f"{count} {name}" for name, count in lost.items() if count)
            self.log.note(
                f"of {sum(counts['asked'] for counts in every)} pieces of work {told}; {self.folder.path}/{CLIENTS_FILE} tells whose"
            )

    def _known_devices(self) -> dict[int, dict[str, str | float]]:
        """Return what agents told of their devices before a restart."""
        try:
            return {
                int(client): dict(told)
                for client, told in json.loads(
                    (self.folder.path / DEVICES_FILE).read_text()
                ).items()
            }
        except (OSError, ValueError, AttributeError, TypeError):
            return {}

    def _where(self) -> Address:
        """Return where to listen: where agents know the run from before, if no port is asked for."""
        try:
            before = json.loads((self.folder.path / ADDRESS_FILE).read_text())
        except (OSError, ValueError):
            return self.address
        asked = self.address
        return replace(
            asked,
            port=asked.port or before["port"],
            enroll_port=asked.enroll_port or before["enrol"],
        )

    def _announce(self) -> None:
        service = self.service
        assert service is not None
        place = f"{self.address.host}:{service.port}"
        metrics = self.pages.port if self.pages else None
        told = {
            "host": self.address.host,
            "port": service.port,
            "enrol": service.enroll_port,
            "metrics": metrics,
        }
        self.folder.write_json(ADDRESS_FILE, told)
        if metrics:
            self.log.note(f"figures at http://{LOOPBACK}:{metrics}/metrics")
        if self.address.pki is None:
            self.log.note(
                f"WITHOUT TLS: whoever reaches {place} can take part and read everything; agents need --insecure"
            )
        else:
            self.log.note(
                f"agents attend at {place}, and enroll at port {service.enroll_port}"
            )

    def _start_agents(self, allowed: list[str]) -> None:
        assert self.service is not None
        place = f"{self.address.host}:{self.service.port}"
        for client in range(self.local_agents):
            state = self.folder.path / AGENTS_FOLDER / str(client)
            command = [
                sys.executable,
                "-m",
                "fedlearn.agent",
                "--coordinator",
                place,
                "--client",
                str(client),
                "--state",
                str(state),
            ]
            if self.address.pki is None:
                command.append("--insecure")
            elif agent_identity.read_identity(state) is None:
                request = agent_identity.make_key_and_csr(state)
                made = identity.sign(self.address.pki, client, request)
                authority = identity.server_credentials(self.address.pki).ca
                agent_identity.store(
                    state, client, made, authority, identity.expiry(made)
                )
            state.mkdir(parents=True, exist_ok=True)
            for module in allowed:  # of the user who runs this, on this machine
                command += ["--allow", module]
            command.append(
                "--end-with-input"
            )  # it ends when we do, even if we are killed
            with open(
                state / "agent.log", "ab"
            ) as log:  # a session of its own: Ctrl-C is ours to pass on
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            self.processes.append(process)

    def _wait(self, wanted: int) -> None:
        """Wait until so many agents attend; raises RunError when a local one ends before."""
        assert self.service is not None
        told = -1
        while (here := len(self.service.attending())) < wanted:
            if here != told:
                self.log.note(
                    f"{here} of {wanted} agents attend; waiting for the others"
                )
                told = here
            for client, process in enumerate(self.processes):
                if process.poll() is not None:
                    raise RunError(
                        f"local agent {client} ended with code {process.returncode}; see {self.folder.path}/agents/{client}/agent.log"
                    )
            time.sleep(0.05)
        self.log.note(f"{here} agents attend")


def run_id(folder: RunFolder) -> bytes:
    """Return the 16 bytes that name a run, drawn at its first start."""
    path = folder.path / RUN_ID_FILE
    if not path.exists():
        folder.write(RUN_ID_FILE, os.urandom(16).hex())
    return bytes.fromhex(path.read_text())


def serve(
    experiment: Experiment,
    folder: RunFolder,
    display: Progress,
    resume: bool,
    address: Address,
    log: Log,
    local_agents: int = 0,
    metrics_port: int | None = None,
) -> dict[str, Any]:
    """Run an experiment over agents, or go on with one, and return its summary; raises what `simulate` raises.

    log: where events go; closed at the end. metrics_port: of Prometheus' figures, 0: any that is free, None: without.
    """
    serving = Serving(folder, address, log, local_agents, metrics_port)
    over = False
    try:
        summary = simulate(experiment, folder, display, resume, serving.layer)
        summary["engine"] = "fleet"
        folder.write_json(SUMMARY_FILE, summary)
        over = True
    finally:
        serving.close(over)
    return summary


def default_pki(folder: Path) -> Path:
    """Return the authority of a run that only local agents attend, made at its first start."""
    path = folder / PKI_FOLDER
    if not (path / "ca.pem").exists():
        identity.make(path, ["localhost", "127.0.0.1"])
    return path
