"""A whole experiment over real agents: the simulation's run with agents as its clients."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedlearn.config import Experiment
from fedlearn.engine.fleet import Fleet, left_out_name
from fedlearn.errors import ConfigError, FedlearnError, StrategyError
from fedlearn.exchange.addresses import bare_host, is_everywhere, joined
from fedlearn.records.names import (
    ADDRESS_FILE,
    AGENTS_FOLDER,
    CLIENTS_FILE,
    DEVICES_FILE,
    JOURNAL_FOLDER,
    LINES_FILE,
    LOG_FILE,
    PKI_FOLDER,
    RUN_ID_FILE,
    SUMMARY_FILE,
)
from fedlearn.records.writing import RunFolder
from fedlearn.reporting.progress import Progress
from fedlearn.runs import checkpoint
from fedlearn.runs.arguments import HIGHEST_PORT
from fedlearn.runs.callbacks import Callback
from fedlearn.runs.fleets import allowances, with_fleet
from fedlearn.runs.layers import Site, Stack
from fedlearn.runs.local_agents import LocalAgents, dialled_host
from fedlearn.runs.simulation import simulate
from fedlearn.server import identity
from fedlearn.server.figures import Lines
from fedlearn.server.journal import Journal
from fedlearn.server.listening import Address
from fedlearn.server.observe import Log
from fedlearn.server.pages import LOOPBACK, Pages
from fedlearn.server.quota import quota_bytes
from fedlearn.server.rounds import Rounds
from fedlearn.server.service import Service
from fedlearn.server.witness import took_part

# Bytes that an answer may have beyond twice its model's, as a payload's own margin.
LEAST_ROOM = 1 << 20

# How often we look whether enough agents attend.
_POLL_S = 0.05


@dataclass(frozen=True)
class ServeOptions:
    """Where and how a run over agents is served.

    host, port, enroll_port: where agents attend and enroll; port 0: any that is free, or
    the run's former one. pki: the authority's folder; None: one of the run's own, unless
    ``insecure``, which is without TLS. local_agents: started here. metrics_port: of
    Prometheus' figures, 0: any that is free, None: without. shown: which events are
    printed, see `Log`. journal_megabytes: most that the journal may have, None: nearly all
    that the disk has free. without: (client, round) whose answers are left out from now on.
    """

    host: str = "127.0.0.1"
    port: int = 0
    enroll_port: int = 0
    pki: Path | None = None
    insecure: bool = False
    local_agents: int = 0
    metrics_port: int | None = None
    shown: str = "notes"
    journal_megabytes: int | None = None
    without: tuple[tuple[int, int], ...] = ()

    def execute(
        self,
        experiment: Experiment,
        folder: RunFolder,
        display: Progress,
        resume: bool,
        callbacks: Sequence[Callback] = (),
    ) -> dict[str, Any]:
        """Run an experiment over agents, or go on with one, and return its summary.

        Raises what `simulate` raises, and ConfigError for answers that cannot be left out.
        """
        self._check_without(folder.path, resume)
        pki = None
        if not self.insecure:
            pki = self.pki or own_pki(folder.path, self.host)
        if self.local_agents:
            # For its error, before anything is built and anybody waits.
            dialled_host(self.host, pki)
        address = Address(self.host, self.port, self.enroll_port, pki)
        log = Log(folder.path / LOG_FILE, self.shown)
        serving = Serving(folder, address, log, self)
        over = False
        try:
            summary = simulate(
                experiment, folder, display, resume, serving.layer, None, callbacks
            )
            # The engine of the config only scores; the agents did the work.
            summary["engine"] = "fleet"
            folder.write_json(SUMMARY_FILE, summary)
            # Only now: agents of a run that failed are to come back.
            over = True
        except StrategyError as error:
            raise StrategyError(
                f"{error}; if one client's answer is at fault, go on without it: "
                "--resume --without CLIENT/ROUND"
            ) from error
        finally:
            serving.close(over)
        return summary

    def _check_without(self, folder: Path, resume: bool) -> None:
        """Refuse to leave out answers that are in a checkpoint already."""
        if not self.without:
            return
        newest = checkpoint.whole(folder)
        done = newest[0].round if newest else 0
        for client, round in self.without:
            if not resume:
                raise ConfigError(
                    f"--without {client}/{round}: no run has begun in {folder}; "
                    "start it without this option"
                )
            if round <= done:
                raise ConfigError(
                    f"--without {client}/{round}: the checkpoint of round {done} has that "
                    f"answer in it; only answers from round {done + 1} on can be left out"
                )


def _port(places: object, name: str) -> int:
    """Return a port of a run's address.json; 0, which is any, where it has none."""
    port = places.get(name) if isinstance(places, dict) else None
    # Whatever a hand or a disk made of the file.
    if not isinstance(port, int) or not 0 <= port <= HIGHEST_PORT:
        return 0
    return port


def own_pki(folder: Path, host: str) -> Path:
    """Return the authority of a run that only local agents attend, made at its first start.

    host: where the coordinator listens; the server's certificate is to name it.
    """
    path = folder / PKI_FOLDER
    names = ["localhost"]
    if not is_everywhere(host):
        names.append(bare_host(host))
    # Kept over a resume: the agents' certificates are from it.
    if not (path / "ca.pem").exists():
        identity.make(path, names)
    elif not set(names) <= set(identity.server_names(path)):
        identity.renew_server(path, names)
    return path


class Serving:
    """What a run over agents holds besides the run: service, journal, log, local agents."""

    def __init__(
        self,
        folder: RunFolder,
        address: Address,
        log: Log,
        options: ServeOptions,
    ) -> None:
        """Take the parts; nothing is started before `layer`, and `close` ends the log."""
        self.folder = folder
        self.address = address
        self.log = log
        self.options = options
        self.agents = LocalAgents(folder.path / AGENTS_FOLDER, address.pki)
        self.pages: Pages | None = None
        self.service: Service | None = None
        self.journal: Journal | None = None

    def layer(self, stack: Stack, site: Site) -> Stack:
        """Return a stack that asks agents: listen, and start the local ones.

        Raises ConfigError for numbers of agents that do not fit the experiment.
        """
        experiment = site.settled.experiment
        clients = site.settled.clients
        self._check(experiment, clients)
        service = self._listen(site)
        self._announce(service)
        # After the ports are open, so that the first try of each agent succeeds.
        if self.options.local_agents:
            host = dialled_host(self.address.host, self.address.pki)
            place = joined(host, service.port)
            allowed = allowances(experiment)
            self.agents.start(place, self.options.local_agents, allowed)
        enough = experiment.fleet.min_agents or self.options.local_agents or 1
        assert self.journal is not None
        fleet = Fleet(
            site.runner,
            stack.engine,
            service,
            self.journal,
            site.memory.downlink,
            experiment.fleet,
            ready=lambda: self._wait(service, min(clients, enough)),
        )
        return with_fleet(stack, site, fleet)

    def close(self, over: bool) -> None:
        """Send the agents away, and end what was started. over: the run is."""
        # In this order: no event may reach what is closed.
        if self.service:
            self.service.stop(over)
        if self.pages:
            self.pages.close()
        if self.journal:
            self.journal.close()
            # After the journal is closed: what was written is read again, whole.
            self._write_clients(self.journal)
        if self.service and self.service.devices:
            self._write_devices(self.service.devices)
        # After the service: an agent that is still attending is told that the run is over.
        self.agents.close(over)
        # Last: all of the above may have something to note.
        self.log.close()

    def _check(self, experiment: Experiment, clients: int) -> None:
        """Refuse local agents that are too many, or that would wait for others for ever."""
        local = self.options.local_agents
        if local > clients:
            raise ConfigError(
                f"--local-agents {local}: the experiment has {clients} clients"
            )
        fleet = experiment.fleet
        # A client without an agent would let every round wait for its deadline.
        waits_for_all = fleet.cohort == "all" and not fleet.min_agents
        if 0 < local < clients and waits_for_all:
            raise ConfigError(
                f"the experiment has {clients} clients, and --local-agents {local} would "
                "wait for the others in every round; "
                f"--set data.partition.clients={local}, or choose among those that "
                "attend: --set fleet.cohort=available"
            )

    def _listen(self, site: Site) -> Service:
        """Open the journal and the ports, and return the service that answers there."""
        settled = site.settled
        most_bytes = 2 * site.parts.layout.raw_bytes + LEAST_ROOM
        brief = settled.brief.to_json()
        rounds = Rounds(run_id(self.folder), brief, settled.clients, most_bytes)
        journal = self.folder.path / JOURNAL_FOLDER
        self.journal = Journal(
            journal, quota_bytes(journal, self.options.journal_megabytes)
        )
        self._leave_out(self.journal, settled.clients)
        self.service = Service(rounds, self.journal, self._listening_at(), self.log)
        self.service.devices = self._devices_before()
        self.service.start()
        if self.options.metrics_port is not None:
            lines = Lines(self.folder.path / LINES_FILE)
            total = settled.experiment.experiment.rounds
            figures = self.service.figures
            self.pages = Pages(self.options.metrics_port, figures, lines, total)
        return self.service

    def _leave_out(self, journal: Journal, clients: int) -> None:
        """Write down whose answers are left out: a resume and a replay do so too."""
        for client, round in self.options.without:
            if client >= clients:
                raise ConfigError(
                    f"--without {client}/{round}: the experiment has {clients} clients"
                )
            name = left_out_name(client, round)
            if journal.find(name) is None:
                journal.append({"kind": "without", "key": name}).result()
            self.log.note(f"round {round} goes on without client {client}'s answers")

    def _listening_at(self) -> Address:
        """Return where to listen: where agents know the run, if no port is asked for."""
        try:
            before = json.loads((self.folder.path / ADDRESS_FILE).read_text())
        except (OSError, ValueError, RecursionError):
            return self.address
        return replace(
            self.address,
            port=self.address.port or _port(before, "port"),
            enroll_port=self.address.enroll_port or _port(before, "enrol"),
        )

    def _announce(self, service: Service) -> None:
        """Write down where agents attend, and note it."""
        place = joined(self.address.host, service.port)
        metrics = self.pages.port if self.pages else None
        ports = {
            "host": self.address.host,
            "port": service.port,
            "enrol": service.enroll_port,
            "metrics": metrics,
        }
        self.folder.write_json(ADDRESS_FILE, ports)
        if metrics:
            self.log.note(f"figures at http://{LOOPBACK}:{metrics}/metrics")
        if self.address.pki is None:
            self.log.note(
                f"WITHOUT TLS: whoever reaches {place} can take part and read everything; "
                "agents need --insecure"
            )
        else:
            self.log.note(
                f"agents attend at {place}, and enroll at port {service.enroll_port}"
            )

    def _wait(self, service: Service, enough: int) -> None:
        """Wait until so many agents attend. Raises RunError when a local one ends before."""
        # Each number of agents is noted once, or the log would fill while we wait.
        noted = -1
        while (attending := len(service.attending())) < enough:
            if attending != noted:
                self.log.note(
                    f"{attending} of {enough} agents attend; waiting for the others"
                )
                noted = attending
            # A local agent that died would be waited for without end.
            self.agents.check()
            time.sleep(_POLL_S)
        self.log.note(f"{attending} agents attend")

    def _devices_before(self) -> dict[int, dict[str, str | float]]:
        """Return what agents said of their devices before a restart."""
        try:
            text = (self.folder.path / DEVICES_FILE).read_text()
            return {
                int(client): dict(facts) for client, facts in json.loads(text).items()
            }
        except (OSError, ValueError, RecursionError, AttributeError, TypeError):
            return {}

    def _write_devices(self, devices: dict[int, dict[str, str | float]]) -> None:
        by_client = {str(client): facts for client, facts in sorted(devices.items())}
        # A full disk has been told of by whoever met it first.
        with contextlib.suppress(FedlearnError):
            self.folder.write_json(DEVICES_FILE, by_client)

    def _write_clients(self, journal: Journal) -> None:
        """Write what each client was asked and what came of it; note what did not come."""
        try:
            table = took_part(journal)
            if not table:
                return
            self.folder.write_json(CLIENTS_FILE, table)
        except FedlearnError as error:
            # Why the run ends is said already, or it has ended well.
            self.log.note(f"{CLIENTS_FILE} is not written: {error}")
            return
        counts = [count for kinds in table.values() for count in kinds.values()]
        missed = []
        for reason in ("failed", "declined", "late", "refused"):
            total = sum(count[reason] for count in counts)
            if total:
                missed.append(f"{total} {reason}")
        if missed:
            asked_total = sum(count["asked"] for count in counts)
            self.log.note(
                f"of {asked_total} pieces of work {', '.join(missed)}; "
                f"{self.folder.path}/{CLIENTS_FILE} says whose"
            )


def run_id(folder: RunFolder) -> bytes:
    """Return the 16 bytes that name a run, drawn at its first start."""
    path = folder.path / RUN_ID_FILE
    if not path.exists():
        # Random: agents keep what they hold by it, also of runs with one name.
        folder.write(RUN_ID_FILE, os.urandom(16).hex())
    return bytes.fromhex(path.read_text())
