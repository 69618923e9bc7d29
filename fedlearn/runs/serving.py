"""A whole experiment over real agents: the simulation's run with agents as its clients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedlearn.config import Experiment
from fedlearn.engine.fleet import Fleet, left_out_name
from fedlearn.errors import ConfigError, StrategyError
from fedlearn.records.names import LOG_FILE, SUMMARY_FILE
from fedlearn.records.writing import RunFolder
from fedlearn.reporting.progress import Progress
from fedlearn.runs import checkpoint
from fedlearn.runs.callbacks import Callback
from fedlearn.runs.fleets import allowances, with_fleet
from fedlearn.runs.hosting import Hosting, HostOptions, run_id
from fedlearn.runs.layers import Site, Stack
from fedlearn.runs.simulation import simulate
from fedlearn.server.journal import Journal
from fedlearn.server.listening import Address
from fedlearn.server.observe import Log
from fedlearn.server.rounds import Rounds

# Bytes that an answer may have beyond twice its model's, as a payload's own margin.
LEAST_ROOM = 1 << 20


@dataclass(frozen=True)
class ServeOptions(HostOptions):
    """Where and how an experiment over agents is served.

    without: (client, round) whose answers are left out from now on.
    """

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
        address = self.address(folder.path)
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


class Serving(Hosting):
    """What an experiment over agents holds besides its run."""

    def __init__(
        self,
        folder: RunFolder,
        address: Address,
        log: Log,
        options: ServeOptions,
    ) -> None:
        """Take the parts; nothing is started before `layer`, and `close` ends the log."""
        super().__init__(folder, address, log, options)
        self._without = options.without

    def layer(self, stack: Stack, site: Site) -> Stack:
        """Return a stack that asks agents: listen, and start the local ones.

        Raises ConfigError for numbers of agents that do not fit the experiment.
        """
        experiment = site.settled.experiment
        clients = site.settled.clients
        self._check(experiment, clients)
        service = self.listen(self._rounds(site), experiment.experiment.rounds)
        # After the ports are open, so that the first try of each agent succeeds.
        self.start_agents(allowances(experiment))
        enough = experiment.fleet.min_agents or self.options.local_agents or 1
        assert self.journal is not None
        fleet = Fleet(
            site.runner,
            stack.engine,
            service,
            self.journal,
            site.memory.downlink,
            experiment.fleet,
            ready=lambda: self.wait(service, min(clients, enough)),
        )
        return with_fleet(stack, site, fleet)

    def prepare(self, journal: Journal, clients: int) -> None:
        """Write down whose answers are left out: a resume and a replay do so too."""
        for client, round in self._without:
            if client >= clients:
                raise ConfigError(
                    f"--without {client}/{round}: the experiment has {clients} clients"
                )
            name = left_out_name(client, round)
            if journal.find(name) is None:
                journal.append({"kind": "without", "key": name}).result()
            self.log.note(f"round {round} goes on without client {client}'s answers")

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

    def _rounds(self, site: Site) -> Rounds:
        """Return the exchange of a run, before anybody is asked."""
        settled = site.settled
        most_bytes = 2 * site.parts.layout.raw_bytes + LEAST_ROOM
        brief = settled.brief.to_json()
        return Rounds(run_id(self.folder), brief, settled.clients, most_bytes)
