"""The simulation in which only those clients answer whose answers a run over agents has counted.

`simulate(RUN, OUT)` trains them again, all of them anew, and reads nothing of the run but its config and, from its journal, who was
counted in each round. So its model is that of the run only if the run lost, doubled and mixed up nothing.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from fedlearn import config
from fedlearn.arrays import State
from fedlearn.clients.evaluate import Score
from fedlearn.config import Experiment
from fedlearn.data.samples import Population
from fedlearn.engine.runner import Outcome, Runner, Task
from fedlearn.engine.serial import Engine
from fedlearn.memory.downlink import Downlink
from fedlearn.records.writing import RunFolder
from fedlearn.reporting.progress import Progress
from fedlearn.runs.simulation import simulate as simulated
from fedlearn.server.journal import Journal


class Survivors:
    """An engine some of whose clients do not answer."""

    workers = 1

    def __init__(
        self, runner: Runner, inner: Engine, counted: Mapping[str, Sequence[int]]
    ) -> None:
        """Take the clients, what runs them, and who was counted: the name of a cohort → its clients."""
        self.runner, self.inner, self.counted = runner, inner, counted
        self._calls: Counter[tuple[int, str]] = Counter()

    def run(self, tasks: Sequence[Task], payload: bytes) -> Iterator[Outcome]:
        """Yield one outcome per task: what a client answers, or that it was sent its model and did not."""
        if not tasks:
            return
        work = tasks[0].plan.round, tasks[0].kind
        self._calls[work] += 1
        counted = self.counted[f"closed/{work[0]}/{work[1]}/{self._calls[work]}"]
        for task in tasks:
            if task.client in counted:
                yield from self.inner.run([task], payload)
                continue
            held = self.runner.receive(task, payload)
            told: dict[str, Any] = {
                "base": held.header,
                "bytes_down": held.bytes_down,
                "fallback": held.fallback,
                "damaged": held.damaged,
            }
            yield Outcome(task.client, error="it was not counted", **told)

    def available(self, round: int) -> None:
        """Return None: a strategy chooses among all clients, as with `fleet.cohort = "all"`."""

    def score(self, state: State) -> Score:
        """Return the score of a model on the held-out samples."""
        return self.inner.score(state)

    def refused(self, client: int, reason: str) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Close what runs the clients."""
        self.inner.close()


def cohorts(run: Path) -> dict[str, list[int]]:
    """Return who was counted in each cohort of a run that has ended: name → clients; raises RecordError."""
    with closing(Journal(run / "journal")) as journal:
        found = [
            (meta["key"], entry)
            for meta, entry in journal.records()
            if meta["kind"] == "closed"
        ]
        return {key: json.loads(journal.read(entry)) for key, entry in found}


def simulate(run: Path, out: Path) -> dict[str, Any]:
    """Return the summary of the simulation; raises what simulations raise."""
    counted = cohorts(run)

    def survivors(
        runner: Runner,
        inner: Engine,
        experiment: Experiment,
        population: Population,
        downlink: Downlink,
    ) -> Engine:
        return Survivors(runner, inner, counted)

    experiment = config.read(str(run / "config.toml"), [])
    with closing(RunFolder(out)) as folder, Progress(True) as display:
        return simulated(experiment, folder, display, fleet=survivors)


def main(arguments: list[str]) -> int:
    """Simulate; arguments: the run's folder, the simulation's."""
    run, out = map(Path, arguments)
    simulate(run, out)
    return 0
