"""A race on one workload: every competitor does a round in turn, many times over, beside a lean
loop on one thread.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedlearn import config
from fedlearn.errors import RunError
from fedlearn.experiments.benchmarks import loops
from fedlearn.experiments.benchmarks.peers import environments
from fedlearn.experiments.benchmarks.peers.running import Running, Unable
from fedlearn.experiments.benchmarks.peers.scripts import seam, textbook
from fedlearn.experiments.benchmarks.workloads import Workload

WARM = 3
"""Rounds before those that count: compilers have then seen every size of batch."""

PAUSE_S = 0.02
"""Between turns: threads of OpenMP spin for a while after their work."""

LEAN = "lean loop, 1 thread"

SAME_MODEL = 0.02
"""How far a competitor's number of parameters may be from ours: haiku's LSTM has one bias where
torch has two (1.4 % of W4).
"""

ARRAYS = "workload.npz"

CORES = os.cpu_count() or 1

PEERS: dict[str, dict[str, tuple[str, ...]]] = {
    "pfl": {"pfl, 1 thread": ("1",), f"pfl, {CORES} threads": (str(CORES),)},
    "fedjax": {"fedjax": ()},
    "flwr": {f"Flower on Ray, {CORES} actors": (str(CORES),)},
    "blazefl": {
        "BlazeFL, 1 thread": ("1",),
        f"BlazeFL, {CORES} threads": (str(CORES),),
    },
    "fedlab": {"FedLab, 1 thread": ("1",)},
}
"""Peer → what it is raced as, and what its script is told besides the workload."""

LOOPS = {
    LEAN: ("lean", "1"),
    "naive loop, 1 thread": ("naive", "1"),
    f"naive loop, {CORES} threads": ("naive", "0"),
}


@dataclass(frozen=True)
class Entry:
    """One row of the table; where ``absent`` says why there is nothing, the rest is 0.

    ms: median of a round; fastest_ms: its least; ratio: median of the competitor's round over
    the lean loop's in the same turn; cores: processor time over time, while it had its turns;
    startup_s: from the process's start to the end of round 1, the least of its starts (the
    first may read from a cold disk); memory_mb: what all its processes made, after the last
    round; parameters, threads: what it said.
    """

    workload: str
    competitor: str
    absent: str = ""
    ms: float = 0.0
    fastest_ms: float = 0.0
    ratio: float = 0.0
    cores: float = 0.0
    startup_s: float = 0.0
    memory_mb: float = 0.0
    parameters: int | None = None
    threads: int | None = None


def race(
    workload: Workload,
    engines: Sequence[str],
    peers: Sequence[str],
    envs: Path,
    rounds: int,
    starts: int,
    overrides: Sequence[str],
) -> list[Entry]:
    """Return everybody's entry, ours first. rounds: that count, after the warm-up; starts:
    of each process, the last one stays.

    Raises ConfigError for an override that the experiment cannot have, and RunError when the
    lean loop does not run.
    """
    with tempfile.TemporaryDirectory() as folder:
        commands = _home(
            workload, engines, 1 + WARM + rounds, overrides, Path(folder)
        ) | _peers(peers, envs, Path(folder))
        field = Field(workload)
        try:
            for name, command in commands.items():
                print(f"{workload.name}: {name}", file=sys.stderr)
                field.admit(name, command, starts)
            if LEAN in field.absent:
                raise RunError(f"the lean loop does not run: {field.absent[LEAN]}")
            for turn in range(WARM + rounds):
                field.turn(counts=turn >= WARM)
            return [field.entry(name) for name in commands]
        finally:
            field.close()


class Field:
    """Who takes part in a race, and how they fare."""

    def __init__(self, workload: Workload) -> None:
        """Start with nobody."""
        self.workload = workload
        self.running: dict[str, Running] = {}
        self.absent: dict[str, str] = {}
        self.startup_s: dict[str, float] = {}
        self.taken: dict[str, list[float]] = {}
        self.used: dict[str, float] = {}

    def admit(self, name: str, command: Sequence[str], starts: int) -> None:
        """Start a competitor, or note why it is absent. command: empty where there is no
        environment.
        """
        if not command:
            self.absent[name] = "not installed"
            return
        self.taken[name], self.used[name], spent = [], 0.0, []
        try:
            for left in reversed(range(starts)):
                process = Running(command, _environment(command))
                spent.append(process.startup_s)
                if left:
                    process.close()
            self.running[name], self.startup_s[name] = process, min(spent)
            self._check(process.told["parameters"])
        except Unable as error:
            self.absent[name] = str(error)

    def turn(self, counts: bool) -> None:
        """Have everyone do a round. counts: whether it is one of those that count."""
        for name, process in self.running.items():
            if name in self.absent:
                continue
            time.sleep(PAUSE_S)
            before = process.cpu_s()
            try:
                seconds = process.round()
            except Unable as error:
                self.absent[name] = str(error)
                continue
            if counts:
                self.taken[name].append(seconds)
                self.used[name] += process.cpu_s() - before

    def entry(self, name: str) -> Entry:
        """Return a competitor's row."""
        if name in self.absent:
            return Entry(self.workload.name, name, absent=self.absent[name])
        taken, process = self.taken[name], self.running[name]
        return Entry(
            self.workload.name,
            name,
            ms=1e3 * statistics.median(taken),
            fastest_ms=1e3 * min(taken),
            ratio=statistics.median(
                a / b for a, b in zip(taken, self.taken[LEAN], strict=True)
            ),
            cores=self.used[name] / sum(taken),
            startup_s=self.startup_s[name],
            memory_mb=process.memory_mb(),
            parameters=process.told["parameters"],
            threads=process.told["threads"],
        )

    def close(self) -> None:
        """End everyone."""
        for process in self.running.values():
            process.close()

    def _check(self, parameters: int | None) -> None:
        expected = textbook.parameters(textbook.MODELS[self.workload.name]())
        if parameters is not None and abs(parameters / expected - 1) > SAME_MODEL:
            raise Unable(f"another model: {parameters:,} parameters, not {expected:,}")


def _home(
    workload: Workload,
    engines: Sequence[str],
    rounds: int,
    overrides: Sequence[str],
    folder: Path,
) -> dict[str, list[str]]:
    module = [sys.executable, "-m", "fedlearn.experiments.benchmarks.peers.home"]
    clients = [(x.numpy(), y.numpy()) for x, y in loops.tensors(workload)]
    seam.write(
        str(folder / ARRAYS),
        workload.name,
        workload.cohort,
        workload.batch_size,
        rounds,
        clients,
    )
    commands = {}
    for engine in engines:
        file = folder / f"{engine}.toml"
        experiment = workload.experiment(
            rounds + 1, engine={"kind": engine}
        )  # the last one would be evaluated: nobody asks for it
        file.write_text(config.to_toml(experiment))
        file.write_text(config.to_toml(config.read(str(file), overrides)))
        commands[f"fedlearn, {engine}"] = [*module, "ours", str(file)]
    return commands | {
        name: [*module, kind, str(folder / ARRAYS), threads]
        for name, (kind, threads) in LOOPS.items()
    }


def _peers(peers: Sequence[str], envs: Path, folder: Path) -> dict[str, list[str]]:
    commands = {}
    for peer in peers:
        start = [
            str(environments.python(envs, peer)),
            "-W",
            "ignore",
            str(environments.HERE / "scripts" / f"with_{peer}.py"),
        ]
        for name, told in PEERS[peer].items():
            commands[name] = (
                [*start, str(folder / ARRAYS), *told]
                if environments.installed(envs, peer)
                else []
            )
    return commands


def _environment(command: Sequence[str]) -> dict[str, str]:
    """Return what a process finds around it: our own find fedlearn, the peers do not."""
    found = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "OMP_NUM_THREADS")
    }
    return (
        found | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        if command[0] == sys.executable
        else found
    )
