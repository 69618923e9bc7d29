"""What routing comes to: a small and a large model, trained by rounds on one data set.

python -m fedlearn.experiments.benchmarks.routing OUT [--seeds N …] [--shares S …]

Both models are trained for every seed, if they are not there yet. Half of the test set sets
the threshold, and the table is of the other half, sample by sample. Bytes are those of the
samples that are sent.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedlearn.commands.arguments import Parser, ended
from fedlearn.compress.routes import RouteReport, fit_route
from fedlearn.runs.api import run
from fedlearn.runs.trained import Trained, load

CONFIG: dict[str, Any] = {
    "experiment": {"rounds": 12, "evaluate_every": 12},
    "data": {"partition": {"kind": "iid", "clients": 10}},
    "train": {"lr": 0.05, "momentum": 0.9, "batch_size": 16, "schedule": "cosine"},
    "strategy": {"fraction_train": 1.0},
    "engine": {"kind": "serial"},
}
# The small one learns in a second, so it has more of each round.
SMALL = {"model": {"name": "logistic"}, "train": {"lr": 0.02, "epochs": 4}}
LARGE = {"model": {"name": "cnn-small"}}

HEADING = (
    "| data | seed | share | small | large | routed | behind | sent | bytes of all |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


def parser() -> Parser:
    """Return the command's arguments."""
    parser = Parser(prog="routing", description="What routing comes to.")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--data", nargs="+", default=["digits", "fashion-mini"])
    parser.add_argument("--shares", nargs="+", type=float, default=[0.1, 0.2, 0.3])
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and return its exit code."""
    arguments = parser().parse_args(argv)
    return ended(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    print(HEADING, flush=True)
    for data in arguments.data:
        for seed in arguments.seeds:
            small = trained(arguments.out, data, "small", SMALL, seed)
            large = trained(arguments.out, data, "large", LARGE, seed)
            for share in arguments.shares:
                print(line(data, seed, fit_route(small, large, share)), flush=True)


def trained(
    out: Path, data: str, name: str, changes: dict[str, Any], seed: int
) -> Trained:
    """Return a model that is trained, or was before."""
    folder = out / f"{data}-{name}-{seed}"
    if not (folder / "model.safetensors").exists():
        config: dict[str, Any] = {}
        for section in CONFIG.keys() | changes.keys():
            config[section] = {**CONFIG.get(section, {}), **changes.get(section, {})}
        config["experiment"]["name"] = name
        config["data"]["name"] = data
        resume = folder.exists()
        seeded = {"experiment.seed": seed}
        run(config, seeded, out=folder, resume=resume, quiet=True)
    return load(str(folder))


def line(data: str, seed: int, report: RouteReport) -> str:
    """Return a line of the table."""
    score = report.score
    cells = (
        data,
        str(seed),
        f"{100 * report.routing.share:.0f} %",
        f"{100 * score.small:.1f}",
        f"{100 * score.large:.1f}",
        f"{100 * score.routed:.1f}",
        f"{100 * (score.large - score.routed):+.1f}",
        f"{report.sent} of {report.samples}",
        f"{100 * score.share_sent:.1f} %",
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
