"""What `[engine] collapse` gains: whole rounds of FedSGD with it and without, in turn.

python -m fedlearn.experiments.benchmarks.fedsgd [W1 W2 W3 W4] [--kind NAME] [--rounds N]

Workloads as in `speed`, but that each client takes one step on all its samples. Both runs are
in processes of their own, with workers of their own, and one waits while the other does a
round; "ratio" is the median of with over without, round by round, and below 1 collapse is
faster. "outside" is the share of a round in which local training did not go on.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from fedlearn.commands.arguments import Parser, ended
from fedlearn.errors import ConfigError, RunError
from fedlearn.experiments.benchmarks.workloads import WORKLOADS

WARM = 3
"""Rounds before those that count."""

CONTEXT = multiprocessing.get_context("spawn")


class Waits:
    """A run's display that tells of each round, and waits until the next may begin."""

    def __init__(self, pipe: Connection) -> None:
        """Take the pipe to whoever measures."""
        self.pipe, self._begun = pipe, 0.0

    def start(self, facts: Mapping[str, Any]) -> None:
        """Do nothing."""

    def client_done(self, done: int, total: int) -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Print what a user would see."""
        print(f"  note: {text}", file=sys.stderr)

    def round_done(self, line: Mapping[str, Any]) -> None:
        """Send a round's seconds and those of its local training."""
        if line["failed"]:
            raise RunError(f"a client failed: {line['failures']}")
        self.pipe.send((time.perf_counter() - self._begun, line["seconds_training"]))
        self.pipe.recv()
        self._begun = time.perf_counter()


def serve(
    workload: str, kind: str, collapse: bool, rounds: int, pipe: Connection
) -> None:
    """Run a workload of FedSGD, a round whenever told."""
    from fedlearn.records.writing import RunFolder
    from fedlearn.runs.simulation import simulate

    experiment = WORKLOADS[workload].experiment(
        rounds,
        engine={"kind": kind, "collapse": collapse},
        train={"batch_size": 0, "lr": 0.05, "epochs": 1},
    )
    waits: Any = Waits(pipe)
    with tempfile.TemporaryDirectory() as folder:
        simulate(experiment, RunFolder(Path(folder) / "run"), waits)


def measure(
    workload: str, kind: str, rounds: int
) -> dict[str, list[tuple[float, float]]]:
    """Return the seconds of rounds, and of local training in them, of both runs; the last
    round, which is evaluated, is left out.
    """
    pipes, found = {}, {}
    started = []
    for name in ("without", "with"):
        pipes[name], theirs = CONTEXT.Pipe()
        process = CONTEXT.Process(
            target=serve,
            args=(workload, kind, name == "with", rounds + WARM + 1, theirs),
        )
        process.start()
        theirs.close()
        started.append(process)
        found[name] = [pipes[name].recv()]  # the first model's line: it is ready
    try:
        for _ in range(rounds + WARM):
            for name, pipe in pipes.items():
                pipe.send(True)
                found[name].append(pipe.recv())
    finally:
        for process in started:
            process.terminate()
            process.join()
    return {name: taken[1 + WARM :] for name, taken in found.items()}


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = Parser(
        prog="python -m fedlearn.experiments.benchmarks.fedsgd",
        description=(__doc__ or "").split("\n\n")[0],
    )
    parser.add_argument(
        "workloads", nargs="*", metavar="W", help="W1 to W4 (default: W1 W2)"
    )
    parser.add_argument(
        "--kind",
        default="pool",
        choices=["serial", "pool"],
        metavar="NAME",
        help="engine: pool or serial (default: pool)",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=15,
        help="rounds that count, at least 5 (default: 15)",
    )
    return parser


def _run(given: argparse.Namespace) -> None:
    unknown = [name for name in given.workloads if name not in WORKLOADS]
    if unknown or given.rounds < 5:
        raise ConfigError(
            f"no workload {', '.join(unknown)}; there are {', '.join(WORKLOADS)}"
            if unknown
            else "--rounds is below 5"
        )
    for name in given.workloads or ("W1", "W2"):
        found = measure(name, given.kind, given.rounds)
        ratio = statistics.median(
            a[0] / b[0] for a, b in zip(found["with"], found["without"], strict=True)
        )
        told = []
        for run, taken in found.items():
            ms = 1e3 * statistics.median(each for each, _ in taken)
            outside = 1 - statistics.median(training / each for each, training in taken)
            told.append(f"{ms:.1f} ms {run} ({100 * outside:.0f} % outside training)")
        print(
            f"{name} {given.kind}: ratio {ratio:.2f}; {', '.join(reversed(told))}",
            flush=True,
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    given = parser().parse_args(argv)
    return ended(lambda: _run(given))


if __name__ == "__main__":
    sys.exit(main())
