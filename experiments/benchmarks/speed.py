"""How long a round takes, beside a lean loop on one thread in the same run.

python -m fedlearn.experiments.benchmarks.speed [W1 W2 W3 W4] [--engines NAME …]
    [--rounds N] [--set section.key=value …]

Whole rounds of `fedlearn simulate`: messages, payloads, sums, the line and the checkpoint
included, but for the evaluation of the model, which the loops do not do either. "ratio" is the
median of ours over lean, turn by turn; below 1 is faster. A turn is a round, on W1 ten: after
35 ms of another process a round of 13 ms finds none of its own in the caches, and takes 4 ms
more than it does in a run. "outside" is the share of a round in which local training did not go
on. Memory is what the processes have for themselves, each page counted once and no files, when
the last round ends. Each measurement has a process of its own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedlearn.commands.arguments import Parser, ended
from fedlearn.engine import ENGINES
from fedlearn.errors import ConfigError, FedlearnError, RunError
from fedlearn.experiments.benchmarks import loops
from fedlearn.experiments.benchmarks.workloads import WORKLOADS, Workload

WARM = 3
"""Rounds before those that count."""

TURN = {"W1": 10}
"""Rounds of a turn, where they are not one."""

CONTEXT = multiprocessing.get_context("spawn")

BASELINES = {
    "lean": ("lean", 1),
    "naive": ("naive", 1),
    "naive, all threads": ("naive", 0),
}


class Beside:
    """A loop in a process of its own."""

    def __init__(self, kind: str, workload: str, threads: int) -> None:
        """Start it."""
        self.pipe, theirs = CONTEXT.Pipe()
        self.process = CONTEXT.Process(
            target=loops.serve, args=(kind, workload, threads, theirs), daemon=True
        )
        self.process.start()
        theirs.close()
        self.pipe.recv()

    def round(self) -> float:
        """Have it do a round; returns its seconds."""
        self.pipe.send(True)
        return float(self.pipe.recv())

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.join()


class Turns:
    """A run's display that lets each loop do as many rounds after each turn of the run's, once
    it is warm.
    """

    def __init__(self, loops: Mapping[str, Beside], rounds: int, turn: int) -> None:
        """Take the loops. turn: rounds of one."""
        self.loops, self.rounds, self.turn = loops, rounds, turn
        self.lines: list[dict[str, Any]] = []
        self.seconds: dict[str, list[float]] = {name: [] for name in loops}
        self.memory_mb = 0.0
        self.ours: list[float] = []
        self._begun = 0.0

    def start(self, facts: Mapping[str, Any]) -> None:
        """Do nothing."""

    def client_done(self, done: int, total: int) -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Print what a user would see."""
        print(f"  note: {text}", file=sys.stderr)

    def round_done(self, line: Mapping[str, Any]) -> None:
        """Let the others have their turn."""
        if line["round"] == self.rounds - 1:
            self.memory_mb = private_mb()
        if line["round"] > WARM:
            self.lines.append(dict(line))
            self.ours.append(time.perf_counter() - self._begun)
        if line["round"] <= WARM or len(self.ours) % self.turn == 0:
            for name, loop in self.loops.items():
                taken = [
                    loop.round()
                    for _ in range(1 if line["round"] <= WARM else self.turn)
                ]
                self.seconds[name] += taken if line["round"] > WARM else []
        self._begun = time.perf_counter()

    def ratio(self, name: str) -> float:
        """Return the median of our turns over a loop's."""
        n = self.turn
        turns = range(len(self.seconds[name]) // n)
        return statistics.median(
            sum(self.ours[n * t : n * t + n])
            / sum(self.seconds[name][n * t : n * t + n])
            for t in turns
        )


def private_mb() -> float:
    """Return the memory of this process and its forked children: anonymous and shared pages,
    each counted once; no files.
    """
    total = 0
    for pid in [os.getpid(), *_forked(os.getpid())]:
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total += sum(
            int(line.split()[1])
            for line in rollup.splitlines()
            if line.startswith(("Pss_Anon:", "Pss_Shmem:"))
        )
    return total / 1024


def _forked(pid: int) -> list[int]:
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        try:
            command = Path(f"/proc/{child}/cmdline").read_bytes()
        except OSError:
            continue
        if command == Path(f"/proc/{pid}/cmdline").read_bytes():
            found += [int(child), *_forked(int(child))]
    return found


def measure(
    workload: Workload,
    engine: str,
    rounds: int,
    overrides: Sequence[str],
    beside: Sequence[str],
) -> dict[str, Any]:
    """Return the medians of one engine on one workload and of the loops beside it."""
    from fedlearn.records.writing import RunFolder
    from fedlearn.runs.simulation import simulate

    changes: dict[str, dict[str, Any]] = {"engine": {"kind": engine}}
    for override in overrides:
        key, _, value = override.partition("=")
        section, _, name = key.partition(".")
        if not name or not value:
            raise ConfigError(f"--set {override}: write section.key=value")
        changes.setdefault(section, {})[name] = _value(value)
    turn = TURN.get(workload.name, 1)
    rounds = -(-rounds // turn) * turn
    experiment = workload.experiment(
        WARM + rounds + 1, **changes
    )  # the last one is evaluated, and does not count
    others = {
        name: Beside(BASELINES[name][0], workload.name, BASELINES[name][1])
        for name in beside
    }
    turns: Any = Turns(others, WARM + rounds + 1, turn)
    try:
        with tempfile.TemporaryDirectory() as folder:
            summary = simulate(experiment, RunFolder(Path(folder) / "run"), turns)
    finally:
        for each in others.values():
            each.close()
    lines, ours = turns.lines[:rounds], turns.ours[:rounds]
    medians = {
        name: statistics.median(taken[:rounds]) for name, taken in turns.seconds.items()
    }
    return {
        "workload": workload.name,
        "engine": engine,
        "ms": 1e3 * statistics.median(ours),
        "fastest_ms": 1e3 * min(ours),
        "loops_ms": {name: 1e3 * each for name, each in medians.items()},
        "ratio": {name: turns.ratio(name) for name in turns.loops},
        "outside": 1
        - statistics.median(
            line["seconds_training"] / each
            for line, each in zip(lines, ours, strict=True)
        ),
        "phases_ms": {
            phase: 1e3
            * statistics.median(
                line["seconds_by_phase"].get(phase, 0.0) for line in lines
            )
            for phase in lines[0]["seconds_by_phase"]
        },
        "gflops": 1e-9 * workload.flops() / statistics.median(ours),
        "memory_mb": turns.memory_mb,
        "model_sha256": summary["model_sha256"],
    }


def apart(*arguments: Any) -> dict[str, Any]:
    """Return what `measure` finds in a process of its own."""
    ours, theirs = CONTEXT.Pipe()
    process = CONTEXT.Process(target=_measured, args=(theirs, arguments))
    process.start()
    theirs.close()
    try:
        found = ours.recv()
    except EOFError:
        raise RunError("the process that measured died") from None
    finally:
        process.join()
    if isinstance(found, FedlearnError):
        raise found
    return dict(found)


def _measured(pipe: Any, arguments: Sequence[Any]) -> None:
    try:
        pipe.send(measure(*arguments))
    except FedlearnError as error:
        pipe.send(error)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = Parser(
        prog="python -m fedlearn.experiments.benchmarks.speed",
        description=(__doc__ or "").split("\n\n")[0],
    )
    parser.add_argument(
        "workloads", nargs="*", metavar="W", help="W1 to W4 (default: all)"
    )
    parser.add_argument(
        "--engines",
        nargs="+",
        default=["pool"],
        choices=[*ENGINES],
        metavar="NAME",
        help="(default: pool)",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=15,
        help="rounds that count, at least 5 (default: 15; of W1 in tens)",
    )
    parser.add_argument(
        "--beside",
        nargs="*",
        default=["lean"],
        choices=[*BASELINES],
        metavar="LOOP",
        help=f"of {', '.join(BASELINES)}",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="change a key of the experiment",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    return parser


def _run(given: argparse.Namespace) -> None:
    unknown = [name for name in given.workloads if name not in WORKLOADS]
    if unknown or given.rounds < 5:
        raise ConfigError(
            f"no workload {', '.join(unknown)}; there are {', '.join(WORKLOADS)}"
            if unknown
            else "--rounds is below 5"
        )
    for name in given.workloads or WORKLOADS:
        for engine in given.engines:
            found = apart(
                WORKLOADS[name], engine, given.rounds, given.set, given.beside
            )
            if given.json:
                print(json.dumps(found), flush=True)
                continue
            ratios = ", ".join(
                f"{found['ratio'][n]:.2f} of {n} ({ms:.1f} ms)"
                for n, ms in found["loops_ms"].items()
            )
            phases = ", ".join(
                f"{phase} {ms:.1f}" for phase, ms in found["phases_ms"].items()
            )
            print(
                f"{name} {engine}: {found['ms']:.1f} ms (fastest "
                f"{found['fastest_ms']:.1f}), {ratios}"
            )
            print(
                f"   {100 * found['outside']:.0f} % outside training, "
                f"{found['gflops']:.0f} GFLOP/s, {found['memory_mb']:.0f} MB; {phases}"
            )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    given = parser().parse_args(argv)
    return ended(lambda: _run(given))


if __name__ == "__main__":
    sys.exit(main())
