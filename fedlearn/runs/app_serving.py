"""A whole Flower app over real agents: `fedlearn.apps` with agents as its nodes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from fedlearn.apps import strict
from fedlearn.apps.agents import AcknowledgedReplies, AgentNodes
from fedlearn.apps.api import AppRun, run_app
from fedlearn.apps.orders import AppBrief
from fedlearn.apps.pool import AppNodes
from fedlearn.apps.running import COPIES_FOLDER
from fedlearn.apps.start import Started
from fedlearn.errors import ConfigError
from fedlearn.records.names import LOG_FILE
from fedlearn.records.writing import RunFolder
from fedlearn.runs.hosting import Hosting, HostOptions, run_id
from fedlearn.server.observe import Log
from fedlearn.server.rounds import Rounds
from fedlearn.system.own_path import look_in


@dataclass(frozen=True)
class AppServeOptions(HostOptions):
    """Where and how an app over agents is served.

    answer_megabytes: most that one reply may have. deadline_s: in which a message has to be
    answered, where its own time to live is not shorter; after it, it has an error for a
    reply.
    """

    answer_megabytes: int = 512
    deadline_s: float = float("inf")

    def run(self, started: Started, path: Path, resume: bool, quiet: bool) -> AppRun:
        """Run an app over agents, or go on with its run.

        Raises what `run_app` raises, and ConfigError for more local agents than nodes.
        """
        nodes = started.project.nodes
        # Before a folder is made.
        if self.local_agents > nodes:
            raise ConfigError(
                f"--local-agents {self.local_agents}: the app has {nodes} nodes; "
                "give --nodes N"
            )
        return run_app(
            started, path, resume=resume, quiet=quiet, open_nodes=self.open_nodes
        )

    def open_nodes(
        self, started: Started, folder: RunFolder, log: BinaryIO
    ) -> AppNodes:
        """Open the exchange, and return the nodes that attend there.

        log: takes nothing; an agent keeps what its app prints. Raises ConfigError,
        RecordError, and RunError for an address that cannot be used.
        """
        address = self.address(folder.path)
        events = Log(folder.path / LOG_FILE, self.shown)
        hosting = Hosting(folder, address, events, self)
        try:
            return self._opened(hosting, started)
        # Ctrl-C as well: ports and agents must not outlive the try.
        except BaseException:
            hosting.close(False)
            raise

    def _opened(self, hosting: Hosting, started: Started) -> AppNodes:
        project = started.project
        brief = AppBrief(
            project.name,
            project.version,
            project.clientapp,
            project.run_config,
            project.nodes,
            started.seed,
        )
        folder = hosting.folder
        # A megabyte is 2**20 bytes here.
        most_bytes = self.answer_megabytes << 20
        rounds = Rounds(run_id(folder), brief.to_json(), project.nodes, most_bytes)
        # An app's rounds are its own secret.
        service = hosting.listen(rounds, 0)
        # Agents of this machine find the app where the user has it.
        look_in(str(project.folder.resolve()))
        hosting.start_agents((), (project.clientapp,))
        assert hosting.journal is not None
        copies = folder.path.resolve() / COPIES_FOLDER
        return AppNodes(
            AgentNodes(service, copies, self.deadline_s, hosting.log.note),
            AcknowledgedReplies(hosting.journal, service.recall),
            strict.unpack,
            hosting.close,
        )
