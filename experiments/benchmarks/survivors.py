"""The simulation in which only those clients answer whose answers a run over agents has counted.

`simulate(RUN, OUT)` trains them again, all of them anew, and reads nothing of the run but its
config and, from its journal, who was counted in each round. So its model is that of the run
only if the run lost, doubled and mixed up nothing.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedlearn import config
from fedlearn.engine.protocol import Engine, Layer
from fedlearn.engine.runner import Runner
from fedlearn.engine.task import Outcome, Task, with_download
from fedlearn.records.writing import RunFolder
from fedlearn.reporting.progress import Progress
from fedlearn.runs.layers import Site, Stack
from fedlearn.runs.simulation import simulate as simulated
from fedlearn.server.journal import Journal


class Survivors(Layer):
    """An engine some of whose clients do not answer."""

    def __init__(
        self, runner: Runner, inner: Engine, counted: Mapping[str, Sequence[int]]
    ) -> None:
        """Take the clients, what runs them, and who was counted: the name of a cohort → its
        clients.
        """
        super().__init__(inner)
        self.workers = 1
        self.runner = runner
        self.counted = counted
        self._calls: Counter[tuple[int, str]] = Counter()

    def run(self, tasks: Sequence[Task], payload: bytes) -> Iterator[Outcome]:
        """Yield one outcome per task: what a client answers, or that it was sent its model and
        did not.
        """
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
            silent = Outcome(task.client, error="it was not counted")
            yield with_download(silent, held)

    def available(self, round: int) -> None:
        """Return None: a strategy chooses among all clients, as with `fleet.cohort = "all"`."""


def cohorts(run: Path) -> dict[str, list[int]]:
    """Return who was counted in each cohort of a run that has ended: name → clients; raises
    RecordError.
    """
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

    def survivors(stack: Stack, site: Site) -> Stack:
        engine = Survivors(site.runner, stack.engine, counted)
        return replace(stack, engine=engine)

    experiment = config.read(str(run / "config.toml"), [])
    with closing(RunFolder(out)) as folder, Progress(True) as display:
        return simulated(experiment, folder, display, agents=survivors)


def main(arguments: list[str]) -> int:
    """Simulate; arguments: the run's folder, the simulation's."""
    run, out = map(Path, arguments)
    simulate(run, out)
    return 0
