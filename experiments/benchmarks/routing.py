"""What routing comes to: a small and a large model, trained by rounds on one data set.

python -m fedlearn.experiments.benchmarks.routing OUT [--seeds N …] [--shares S …]

Both models are trained for every seed, if they are not there yet. Half of the test set sets
the routing, and the other half is routed, sample by sample; then the halves change places.
``by margin`` is the same without corrections. All samples have as many bytes, so the share
that is sent is that of the bytes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlearn.clients.placement.routing import Routing, fit, margins
from fedlearn.commands.arguments import Parser, ended
from fedlearn.compress.routes import Scores, routed_by, scores_of, streamed
from fedlearn.runs.api import run
from fedlearn.runs.trained import Trained, load

Labels = NDArray[np.int64]

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
    "| data | seed | share | small | large | by margin | behind | sent | routed | behind "
    "| sent |\n|---|---|---|---|---|---|---|---|---|---|---|"
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
            scores = (scores_of(small), scores_of(large))
            labels = np.asarray(small.population.test.y, np.int64)
            for share in arguments.shares:
                cells = (data, str(seed), f"{100 * share:.0f} %")
                print(line(cells, *scores, labels, share), flush=True)


def trained(
    out: Path, data: str, name: str, changes: dict[str, Any], seed: int
) -> Trained:
    """Return a model that is trained, or was before."""
    folder = out / f"{data}-{name}-{seed}"
    if not (folder / "model.safetensors").exists():
        config: dict[str, Any] = {}
        # A section at a time, as both have keys of their own in it.
        for section in CONFIG.keys() | changes.keys():
            config[section] = {**CONFIG.get(section, {}), **changes.get(section, {})}
        config["experiment"]["name"] = name
        config["data"]["name"] = data
        # A run that was broken off goes on.
        resume = folder.exists()
        seeded = {"experiment.seed": seed}
        run(config, seeded, out=folder, resume=resume, quiet=True)
    return load(str(folder))


def line(
    cells: tuple[str, ...], small: Scores, large: Scores, labels: Labels, share: float
) -> str:
    """Return a line of the table. cells: its first ones."""
    by_margin = crossed(small, large, labels, share, margin_alone)
    by_class = crossed(small, large, labels, share, routed_by)
    figures = [100 * (small.argmax(-1) == labels).mean()]
    figures.append(100 * (large.argmax(-1) == labels).mean())
    texts = [f"{figure:.1f}" for figure in figures]
    for accuracy, share_sent in (by_margin, by_class):
        behind = figures[1] - 100 * accuracy
        texts += [
            f"{100 * accuracy:.1f}",
            f"{behind:+.1f}",
            f"{100 * share_sent:.1f} %",
        ]
    return f"| {' | '.join([*cells, *texts])} |"


def crossed(
    small: Scores,
    large: Scores,
    labels: Labels,
    share: float,
    fitted: Callable[[Scores, Labels, float], Routing],
) -> tuple[float, float]:
    """Return accuracy and share sent, each half routed by what the other one set."""
    is_even = np.arange(len(labels)) % 2 == 0
    right = 0.0
    share_sent = 0.0
    for setting in (is_even, ~is_even):
        routing = fitted(small[setting], labels[setting], share)
        score = streamed(small[~setting], large[~setting], labels[~setting], routing)
        # Weighed, as one half may have a sample more.
        right += score.routed * (~setting).sum()
        share_sent += score.share_sent * (~setting).sum()
    return right / len(labels), share_sent / len(labels)


def margin_alone(small: Scores, labels: Labels, share: float) -> Routing:
    """Return the routing without corrections."""
    return Routing(fit(margins(small), share), share)


if __name__ == "__main__":
    sys.exit(main())
