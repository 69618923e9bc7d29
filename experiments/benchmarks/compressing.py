"""What `fedlearn compress` comes to: accuracy, bytes and CPU time beside the original.

python -m fedlearn.experiments.benchmarks.compressing OUT [--models NAME …] [--seeds N …]

For every model and seed a run is trained, compressed by ten federated rounds a variant, and
measured. What is there already is not made again. The table has the means over the seeds,
and each seed's accuracy.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from fedlearn.commands.arguments import Parser, ended
from fedlearn.compress.comparison import Request, compress
from fedlearn.compress.rows import Candidate
from fedlearn.compress.variants import Steps
from fedlearn.config import read
from fedlearn.runs.api import run
from fedlearn.runs.trained import load

ROUNDS = 10

# Percentage points; every row is shown, whatever it loses.
GATE = 0.5


@dataclass(frozen=True)
class Workload:
    """A model to train and to compress. tuning: ``--set`` of the fine-tuning."""

    config: dict[str, Any]
    variants: Sequence[Steps]
    tuning: list[str] = field(default_factory=list)


def default_config() -> dict[str, Any]:
    """Return the shipped default on the engine that suits a busy machine."""
    changes = {"engine.kind": "serial", "experiment.evaluate_every": 5}
    return read(None, changes).model_dump(exclude_none=True)


# A narrow or a binary model gains from more clients a round, and from softer targets.
_TUNING = ["strategy.fraction_train=0.3", "train.label_smoothing=0.1"]

# A learning rate that stays, so that the original is still on its way.
CNN = Workload(
    config={
        "experiment": {"name": "cnn-small", "rounds": 40, "evaluate_every": 5},
        "data": {
            "name": "fashion-mini",
            "partition": {"kind": "dirichlet", "clients": 100, "alpha": 0.5},
        },
        "model": {"name": "cnn-small"},
        "train": {"lr": 0.02, "momentum": 0.9, "epochs": 3, "batch_size": 10},
        "strategy": {"fraction_train": 0.1},
        "codec": {"up": "auto", "down": "auto"},
        "engine": {"kind": "serial"},
    },
    variants=(
        Steps(prune=0.5),
        Steps(prune=0.6),
        Steps(low_rank=0.8),
        Steps(store="int8"),
        Steps(store="binary"),
        Steps(prune=0.5, store="int8"),
    ),
    tuning=_TUNING,
)
# The shipped default, whose rate falls to 0: an original that has settled.
SETTLED = Workload(
    config=default_config(),
    variants=(
        Steps(prune=0.25),
        Steps(prune=0.5),
        Steps(low_rank=0.8),
        Steps(store="int8"),
        Steps(store="binary"),
    ),
    tuning=_TUNING,
)
SENSOR = Workload(
    config={
        "experiment": {"name": "lstm-sensor", "rounds": 60, "evaluate_every": 10},
        "data": {"name": "watch-mini"},
        "model": {"name": "lstm-sensor"},
        "train": {"lr": 1.0, "momentum": 0.6, "clip_norm": 1.0, "batch_size": 16},
        "strategy": {"fraction_train": 0.5},
        "codec": {"up": "auto", "down": "auto"},
        "engine": {"kind": "serial"},
    },
    variants=(
        Steps(prune=0.25),
        Steps(prune=0.5),
        Steps(store="int8"),
        Steps(prune=0.25, store="int8"),
    ),
    tuning=["train.lr=0.5"],
)
WORKLOADS = {"cnn-small": CNN, "settled": SETTLED, "lstm-sensor": SENSOR}

HEADING = (
    "| model | variant | accuracy | points | each seed | bytes | fewer | parameters | CPU µs | "
    "time | memory MB |\n|---|---|---|---|---|---|---|---|---|---|---|"
)


def parser() -> Parser:
    """Return the command's arguments."""
    parser = Parser(prog="compressing", description="What compress comes to.")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--models", nargs="+", choices=WORKLOADS, default=[*WORKLOADS])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--set", action="append", default=[], help="of the fine-tuning, after its own"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and return its exit code."""
    arguments = parser().parse_args(argv)
    return ended(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    print(HEADING, flush=True)
    for name in arguments.models:
        tables = [
            rows(name, seed, arguments.out, arguments.set) for seed in arguments.seeds
        ]
        for variant in range(len(tables[0])):
            print(line(name, [table[variant] for table in tables], tables), flush=True)


def rows(
    name: str, seed: int, out: Path, changes: Sequence[str] = ()
) -> Sequence[Candidate]:
    """Return the rows of a workload and a seed, the original first."""
    workload = WORKLOADS[name]
    base = out / f"{name}-{seed}"
    if not (base / "model.safetensors").exists():
        resume = base.exists()
        run(
            workload.config,
            {"experiment.seed": seed},
            out=base,
            resume=resume,
            quiet=True,
        )
    request = Request(
        variants=workload.variants,
        rounds=ROUNDS,
        gate=GATE,
        changes=[*workload.tuning, *changes],
        quiet=True,
    )
    folder = out / f"{name}-{seed}-compressed"
    return compress(load(str(base)), request, folder, lambda text: None).rows


def line(
    name: str, same: Sequence[Candidate], tables: Sequence[Sequence[Candidate]]
) -> str:
    """Return a line of the table: one variant over the seeds. tables: of each seed."""
    originals = [table[0] for table in tables]
    points = [
        100 * (row.accuracy - original.accuracy)
        for row, original in zip(same, originals, strict=True)
    ]
    seeds = ", ".join(
        f"{100 * row.accuracy:.1f} ({difference:+.1f})"
        for row, difference in zip(same, points, strict=True)
    )
    bytes_ = mean(row.bytes for row in same)
    fewer = mean(row.bytes for row in originals) / bytes_
    memory = mean((row.peak_bytes or 0) / 1e6 for row in same)
    cells = (
        name,
        same[0].name,
        f"{100 * mean(row.accuracy for row in same):.2f}",
        f"{mean(points):+.2f}",
        seeds,
        f"{bytes_:,.0f}",
        f"{fewer:.1f}×",
        f"{mean(row.parameters for row in same):,.0f}",
        f"{mean(row.cpu_us for row in same):.1f}",
        f"{mean(row.cpu_ratio for row in same):.2f}×",
        f"{memory:.1f}",
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
