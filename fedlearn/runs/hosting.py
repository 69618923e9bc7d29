"""What a run over agents has, of whatever kind it is: ports, journal, log, local agents."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fedlearn.errors import FedlearnError
from fedlearn.exchange.addresses import bare_host, is_everywhere, joined
from fedlearn.records.names import (
    ADDRESS_FILE,
    AGENTS_FOLDER,
    CLIENTS_FILE,
    DEVICES_FILE,
    JOURNAL_FOLDER,
    LINES_FILE,
    PKI_FOLDER,
    RUN_ID_FILE,
)
from fedlearn.records.writing import RunFolder
from fedlearn.runs.arguments import HIGHEST_PORT
from fedlearn.runs.local_agents import LocalAgents, dialled_host
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

# How often we look whether enough agents attend.
_POLL_S = 0.05


@dataclass(frozen=True)
class HostOptions:
    """Where and how a run over agents is served.

    host, port, enroll_port: where agents attend and enroll; port 0: any that is free, or
    the run's former one. pki: the authority's folder; None: one of the run's own, unless
    ``insecure``, which is without TLS. local_agents: started here. metrics_port: of
    Prometheus' figures, 0: any that is free, None: without. shown: which events are
    printed, see `Log`. journal_megabytes: most that the journal may have, None: nearly all
    that the disk has free.
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

    def address(self, folder: Path) -> Address:
        """Return where a run of a folder listens; raises ConfigError."""
        pki = None
        if not self.insecure:
            pki = self.pki or own_pki(folder, self.host)
        if self.local_agents:
            # For its error, before anything is built and anybody waits.
            dialled_host(self.host, pki)
        if pki is not None:
            # A Flower app may change the working directory.
            pki = pki.resolve()
        return Address(self.host, self.port, self.enroll_port, pki)


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


class Hosting:
    """What a run over agents holds besides the run: service, journal, log, local agents."""

    def __init__(
        self,
        folder: RunFolder,
        address: Address,
        log: Log,
        options: HostOptions,
    ) -> None:
        """Take the parts; nothing is started before `listen`, and `close` ends the log."""
        self.folder = folder
        self.address = address
        self.log = log
        self.options = options
        self.agents = LocalAgents(folder.path / AGENTS_FOLDER, address.pki)
        self.pages: Pages | None = None
        self.service: Service | None = None
        self.journal: Journal | None = None

    def listen(self, rounds: Rounds, total: int) -> Service:
        """Open the journal and the ports, and return the service that answers there.

        total: rounds, of the figures; 0: not known.
        """
        path = self.folder.path / JOURNAL_FOLDER
        journal = Journal(path, quota_bytes(path, self.options.journal_megabytes))
        self.journal = journal
        self.prepare(journal, rounds.clients)
        self.service = Service(rounds, journal, self._listening_at(), self.log)
        self.service.devices = self._devices_before()
        self.service.start()
        if self.options.metrics_port is not None:
            lines = Lines(self.folder.path / LINES_FILE)
            figures = self.service.figures
            self.pages = Pages(self.options.metrics_port, figures, lines, total)
        self._announce(self.service)
        return self.service

    def prepare(self, journal: Journal, clients: int) -> None:
        """Write into the journal what is to be there before anybody attends."""

    def start_agents(self, allowed: Sequence[str], apps: Sequence[str] = ()) -> None:
        """Start the local agents, once the ports are open.

        allowed, apps: see `LocalAgents.start`.
        """
        if self.options.local_agents and self.service:
            host = dialled_host(self.address.host, self.address.pki)
            place = joined(host, self.service.port)
            self.agents.start(place, self.options.local_agents, allowed, apps)

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

    def wait(self, service: Service, enough: int) -> None:
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
