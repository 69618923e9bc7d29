"""What a population costs: the same cohort out of a thousand clients and out of a million.

python -m fedlearn.experiments.benchmarks.clients [CASE …] [--clients N …] [--codecs NAME …]
    [--rounds N] [--engine NAME]

A round of each population in turn. 20 clients with 50 samples each train a small model for one
epoch; every round is written to a checkpoint. Each population has a process of its own, and
they take turns round by round, so a machine that is slow for a while is slow for all of them.
"over" is the median of the ratios, round by round, to the smallest population. Where the
strategy is Flower's, its own list of all clients is in it.

synthetic  FedProx's clients, each drawn when it is asked for; a logistic model
digits     handwritten digits through the partition "drawn"; a small CNN
own        a user's own clients by import path: this module's `owners`; a logistic model
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from fedlearn.commands.arguments import Parser, ended
from fedlearn.data.samples import Population, Samples
from fedlearn.engine import ENGINES
from fedlearn.errors import ConfigError, RunError
from fedlearn.experiments.benchmarks.speed import private_mb
from fedlearn.seeds import generator

COHORT, EACH, WARM = 20, 50, 3

CONTEXT = multiprocessing.get_context("spawn")

CODECS: dict[str, dict[str, Any]] = {
    "raw32": {},
    "shadow": {"up": "eden1", "down": "eden1", "downlink": "shadow", "copies_gb": 1e9},
    "cast": {"up": "eden1", "down": "eden1", "downlink": "cast"},
    "feedback": {"up": "ef+topk(0.01)+tern", "copies_gb": 1e9},
}

FLOWER = "flwr.serverapp.strategy:FedAvg"


@dataclass(frozen=True)
class Owners:
    """A user's own clients: client k's samples are a function of k, and nothing is held."""

    clients: int

    def __len__(self) -> int:
        """Return the number of clients."""
        return self.clients

    def size(self, client: int) -> int:
        """Return a client's number of samples."""
        return EACH

    def __getitem__(self, client: int) -> Samples:
        """Draw a client's samples: x (50, 20) float32, y (50,) int64."""
        random = generator(1, "owner", int(client))
        x = random.standard_normal((EACH, 20), np.float32)
        return Samples(x, np.argmax(x[:, :4], axis=1).astype(np.int64))


def owners(clients: int) -> Population:
    """Return a population of such clients."""
    every = Owners(clients)
    return Population("own", "features", 4, (20,), every, every[clients])


def table(
    case: str, codec: str, clients: int, rounds: int, engine: str, strategy: str
) -> dict[str, Any]:
    """Return one measurement as a table of the config."""
    here = "fedlearn.experiments.benchmarks.clients"
    data: dict[str, dict[str, Any]] = {
        "synthetic": {"name": "synthetic", "clients": clients, "cap": EACH},
        "digits": {
            "name": "digits",
            "partition": {
                "kind": "drawn",
                "clients": clients,
                "samples_per_client": EACH,
                "alpha": 0.5,
            },
        },
        "own": {"name": f"{here}:owners", "clients": clients},
    }
    asked = (
        {"fraction_train": COHORT / clients, "fraction_evaluate": 0.0}
        if strategy == FLOWER
        else {"clients_per_round": COHORT}
    )
    return {
        "experiment": {
            "name": f"{case}-{clients}",
            "rounds": rounds,
            "evaluate_every": rounds,
        },
        "data": data[case],
        "model": {"name": "cnn-small" if case == "digits" else "logistic"},
        "train": {"lr": 0.05},
        "strategy": {"name": strategy, **asked},
        "codec": CODECS[codec],
        "engine": {"kind": engine},
    }


class Turns:
    """A run's display that tells of each round and waits for leave to go on; it begins when the
    initial model is scored.
    """

    def __init__(self, pipe: Connection, folder: Path, rounds: int) -> None:
        """Take the other end."""
        self.pipe, self.folder, self.rounds = pipe, folder, rounds
        self.begun = time.perf_counter()

    def start(self, facts: Mapping[str, Any]) -> None:
        """Do nothing."""

    def client_done(self, done: int, total: int) -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Print what a user would see."""
        print(f"  note: {text}", file=sys.stderr)

    def round_done(self, line: Mapping[str, Any]) -> None:
        """Tell of the time since the last turn, the checkpoint before this round included, and
        of memory and checkpoint so far.
        """
        took = time.perf_counter() - self.begun
        files = sorted((self.folder / "checkpoint").glob("*.safetensors"))
        self.pipe.send(
            {
                "seconds": took,
                "record_s": line["seconds_by_phase"]["record"],
                "peak_mb": _peak_mb(),
                "tree_mb": private_mb() if line["round"] == self.rounds - 1 else 0.0,
                "checkpoint_bytes": files[-1].stat().st_size if files else 0,
            }
        )
        self.pipe.recv()
        self.begun = time.perf_counter()


def serve(pipe: Connection, told: dict[str, Any]) -> None:
    """Run an experiment in this process, round by round as the other end gives leave."""
    from fedlearn import config
    from fedlearn.records.writing import RunFolder
    from fedlearn.runs.simulation import simulate

    with tempfile.TemporaryDirectory() as name:
        folder = RunFolder(Path(name) / "run")
        display: Any = Turns(pipe, folder.path, told["experiment"]["rounds"])
        try:
            pipe.send(
                simulate(config.validate(told, "clients"), folder, display)[
                    "model_sha256"
                ]
            )
        except Exception as error:
            pipe.send(str(error))


def _peak_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return (
        next(
            int(line.split()[1])
            for line in status.splitlines()
            if line.startswith("VmHWM")
        )
        / 1024
    )


class Beside:
    """One population in a process of its own."""

    def __init__(self, told: dict[str, Any]) -> None:
        """Start it; its first report is of its start."""
        self.pipe, theirs = CONTEXT.Pipe()
        self.process = CONTEXT.Process(target=serve, args=(theirs, told))
        self.process.start()
        theirs.close()
        self.reports = [self.report()]

    def report(self) -> dict[str, Any]:
        """Return the next report; raises RunError when there is none."""
        found = self.pipe.recv()
        if isinstance(found, str):
            raise RunError(f"the run ended early: {found}")
        return dict(found)

    def round(self) -> None:
        """Have it do a round."""
        self.pipe.send(True)
        self.reports.append(self.report())

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.join()


def measure(
    case: str,
    codec: str,
    populations: Sequence[int],
    rounds: int,
    engine: str,
    strategy: str,
) -> list[dict[str, Any]]:
    """Return the medians of each population, and of their ratios to the first."""
    every: list[Beside] = []
    try:
        for clients in populations:
            every.append(
                Beside(table(case, codec, clients, rounds + WARM + 1, engine, strategy))
            )  # the last round is scored, and left out
        for place in range(rounds + WARM):
            for beside in every if place % 2 else reversed(every):
                beside.round()
    finally:
        for beside in every:
            beside.close()
    out = []
    base = every[0].reports[WARM + 1 :]
    for clients, beside in zip(populations, every, strict=True):
        kept = beside.reports[WARM + 1 :]
        out.append(
            {
                "case": case,
                "codec": codec,
                "clients": clients,
                "ms": 1e3 * statistics.median(each["seconds"] for each in kept),
                "over": statistics.median(
                    each["seconds"] / first["seconds"]
                    for each, first in zip(kept, base, strict=True)
                ),
                "start_ms": 1e3 * beside.reports[0]["seconds"],
                "peak_mb": kept[-1]["peak_mb"],
                "tree_mb": kept[-1]["tree_mb"],
                "checkpoint_bytes": kept[-1]["checkpoint_bytes"],
                "record_ms": 1e3 * statistics.median(each["record_s"] for each in kept),
            }
        )
    return out


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = Parser(
        prog="python -m fedlearn.experiments.benchmarks.clients",
        description=(__doc__ or "").split("\n\n")[0],
    )
    parser.add_argument(
        "cases", nargs="*", metavar="CASE", help="synthetic, digits, own (default: all)"
    )
    parser.add_argument(
        "--clients",
        nargs="+",
        type=int,
        default=[1_000, 1_000_000],
        metavar="N",
        help="(default: 1000 1000000)",
    )
    parser.add_argument(
        "--codecs",
        nargs="+",
        default=[*CODECS],
        choices=[*CODECS],
        metavar="NAME",
        help=f"of {', '.join(CODECS)}",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=30,
        help="rounds that count, at least 5 (default: 30)",
    )
    parser.add_argument(
        "--engine",
        default="serial",
        choices=[*ENGINES],
        help="(default: serial: one process, whose peak is all of it)",
    )
    parser.add_argument(
        "--strategy",
        default="fedavg",
        choices=["fedavg", FLOWER],
        metavar="NAME",
        help=f"fedavg or {FLOWER}",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    return parser


def _run(given: argparse.Namespace) -> None:
    cases = given.cases or ["synthetic", "digits", "own"]
    if unknown := [
        case for case in cases if case not in ("synthetic", "digits", "own")
    ]:
        raise ConfigError(
            f"no case {', '.join(unknown)}; there are synthetic, digits, own"
        )
    if given.rounds < 5 or min(given.clients) < COHORT:
        raise ConfigError(
            f"--rounds is at least 5, and each of --clients at least {COHORT}"
        )
    for case in cases:
        for codec in given.codecs:
            for found in measure(
                case, codec, given.clients, given.rounds, given.engine, given.strategy
            ):
                if given.json:
                    print(json.dumps(found), flush=True)
                    continue
                memory = f"peak {found['peak_mb']:.0f} MB" + (
                    f", tree {found['tree_mb']:.0f} MB"
                    if given.engine != "serial"
                    else ""
                )
                print(
                    f"{case} {codec} {found['clients']:>9,} clients: "
                    f"{found['ms']:.1f} ms a round ({found['over']:.3f} over the first), "
                    f"start {found['start_ms']:.0f} ms, {memory}, checkpoint "
                    f"{found['checkpoint_bytes'] / 1e3:,.0f} kB in "
                    f"{found['record_ms']:.1f} ms",
                    flush=True,
                )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    given = parser().parse_args(argv)
    return ended(lambda: _run(given))


if __name__ == "__main__":
    sys.exit(main())
