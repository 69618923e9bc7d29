"""Accuracy against bytes: each workload with each pair of codecs, beside the run uncompressed.

    python -m fedlearn.experiments.benchmarks.compression OUT --rows 2nn-iid watch --seeds 0 1 2

Each run is an ordinary one, in OUT/ROW/PAIR/SEED: finished ones are not run again, unfinished
ones are resumed. The table counts both directions with all headers; an accuracy is the mean of
the last eighth of a run's evaluations.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from fedlearn.commands.arguments import Parser, ended
from fedlearn.errors import RunError

PAIRS = {
    "float32": ("raw32", "raw32"),
    "eden1-cvq": ("eden1", "pred+cvq(1,1)"),
    "uvq-eden1": ("uvq(0.1)", "eden1"),
    "uvq-cvq": ("uvq(0.1)", "pred+cvq(0.5,1)"),
    "eden1": ("eden1", "eden1"),
    "uvq-up-only": ("uvq(0.1)", "raw32"),
    "cvq-down-only": ("raw32", "pred+cvq(0.5,1)"),
    "topk-ef": ("ef+topk(0.01)+tern", "eden1"),
    "topk-ef-5": ("ef+topk(0.05)+q4c", "eden1"),
    "uvq-topk": ("uvq(0.3)", "pred+topk(0.05)+q4c"),
    "uvq-cvq-coarse": ("uvq(0.05)", "pred+cvq(0.15,1)"),
}
"""How updates and models travel."""

MOMENTUM = {"strategy.server_momentum": 0.6}
COSINE = {"train.schedule": "cosine"}
SHARDS = MOMENTUM | COSINE | {"experiment.rounds": 200, "experiment.evaluate_every": 4}


@dataclass(frozen=True)
class Row:
    """A workload: a shipped experiment, what is changed in it, and an accuracy whose bytes are
    compared.
    """

    config: str
    target: float
    sets: Mapping[str, Any] = field(default_factory=dict)


ROWS = {
    "2nn-iid": Row("mnist-2nn-iid", 0.97, MOMENTUM | {"train.epochs": 5}),
    "2nn-iid-e1": Row("mnist-2nn-iid", 0.97, MOMENTUM),
    "2nn-shards": Row("mnist-2nn-shards", 0.96, SHARDS | {"train.epochs": 5}),
    "2nn-shards-e1": Row("mnist-2nn-shards", 0.96, SHARDS),
    "cnn-iid": Row(
        "mnist-2nn-iid",
        0.985,
        MOMENTUM | {"model.name": "cnn", "experiment.rounds": 25},
    ),
    "cnn-shards": Row(
        "mnist-2nn-shards",
        0.97,
        SHARDS | {"model.name": "cnn", "experiment.rounds": 60},
    ),
    "fashion-mini": Row("default", 0.83),
    "watch": Row("watch-lstm", 0.90),
    "2nn-iid-4-percent": Row(
        "mnist-2nn-iid",
        0.96,
        MOMENTUM | {"strategy.fraction_train": 0.04, "experiment.rounds": 100},
    ),
    "2nn-iid-everyone": Row(
        "mnist-2nn-iid",
        0.97,
        MOMENTUM | {"strategy.fraction_train": 1.0, "experiment.rounds": 20},
    ),
    "2nn-iid-cast": Row("mnist-2nn-iid", 0.97, MOMENTUM | {"codec.downlink": "cast"}),
    "digits-14k": Row(
        "default",
        0.90,
        {
            "data.name": "digits",
            "data.partition.clients": 40,
            "strategy.fraction_train": 0.25,
            "experiment.rounds": 80,
        },
    ),
    "500-rounds": Row(
        "default",
        0.80,
        {"experiment.rounds": 500, "train.epochs": 1, "experiment.evaluate_every": 20},
    ),
}
"""The baselines are the best of those tried over server momentum (0, 0.6, 0.9 with server_lr
0.3), local epochs and schedule.
"""


def folder(out: Path, row: str, pair: str, seed: int) -> Path:
    """Return where a run lies."""
    return out / row / pair / str(seed)


def command(out: Path, row: str, pair: str, seed: int) -> list[str]:
    """Return the command of a run; one that was begun is resumed."""
    found, (up, down) = ROWS[row], PAIRS[pair]
    sets = {
        "engine.kind": "serial",
        **found.sets,
        "codec.up": up,
        "codec.down": down,
        "experiment.seed": seed,
        "expect.accuracy": 0,
    }
    if pair in ("float32", "uvq-up-only"):  # whole models only
        sets.pop("codec.downlink", None)
    path = folder(out, row, pair, seed)
    again = ["--resume"] if (path / "checkpoint").exists() else []
    told = [part for key, value in sets.items() for part in ("--set", f"{key}={value}")]
    return [
        sys.executable,
        "-m",
        "fedlearn.simulate",
        found.config,
        *told,
        "--out",
        str(path),
        "--quiet",
        *again,
    ]


@dataclass(frozen=True)
class Result:
    """What came of one run: accuracies from 0 to 1, bytes of both directions."""

    accuracy: float
    bytes: int
    raw: int
    to_target: int | None


def result(path: Path, target: float) -> Result | None:
    """Return the result of a finished run, or None."""
    if not (path / "summary.json").exists():
        return None
    summary = json.loads((path / "summary.json").read_text())
    lines = [
        json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()
    ]
    scored = [
        line["accuracy"]
        for line in lines
        if line["accuracy"] is not None and line["round"]
    ]
    sent, reached = 0, None
    for line in lines:
        sent += line["bytes_up"] + line["bytes_down"]
        if reached is None and (line["accuracy"] or 0) >= target:
            reached = sent
    return Result(
        fmean(scored[-max(1, len(scored) // 8) :]),
        summary["bytes_up"] + summary["bytes_down"],
        summary["bytes_raw"],
        reached,
    )


def table(out: Path) -> str:
    """Return the table of all finished runs, in Markdown."""
    lines = [
        "| workload | codecs (up / down) | seeds | accuracy % | difference | "
        "fewer bytes | to target |",
        "|---|---|---|---|---|---|---|",
    ]
    for row, found in ROWS.items():
        results: dict[str, dict[int, Result]] = {}
        for pair in PAIRS:
            paths = {int(p.name): p for p in sorted((out / row / pair).glob("*"))}
            results[pair] = {
                seed: r for seed, p in paths.items() if (r := result(p, found.target))
            }
        base = results["float32"]
        for pair, seeds in results.items():
            if seeds:
                lines.append(_line(row, pair, seeds, base))
    return "\n".join(lines)


def _line(
    row: str, pair: str, seeds: Mapping[int, Result], base: Mapping[int, Result]
) -> str:
    shared = [seed for seed in seeds if seed in base]
    apart = [100 * (seeds[s].accuracy - base[s].accuracy) for s in shared]
    spread = (
        f" ± {stdev(apart) / len(apart) ** 0.5:.2f}"
        if len(apart) > 1 and pair != "float32"
        else ""
    )
    difference = f"{fmean(apart):+.2f}{spread}" if apart else "-"
    told = ", ".join(f"{100 * seeds[s].accuracy:.2f}" for s in sorted(seeds))
    ratio = fmean(r.raw / r.bytes for r in seeds.values())
    reached = [
        (base[s].to_target or 0) / (seeds[s].to_target or 1)
        for s in shared
        if base[s].to_target and seeds[s].to_target
    ]
    target = (
        f"{fmean(reached):.0f}×"
        if len(reached) == len(shared) and reached
        else "not reached"
        if shared
        else "-"
    )
    return (
        f"| {row} | {' / '.join(PAIRS[pair])} | {len(seeds)} | {told} | "
        f"{difference} | {ratio:.1f}× | {target} |"
    )


def run(
    out: Path,
    rows: Sequence[str],
    pairs: Sequence[str],
    seeds: Sequence[int],
    at_once: int,
) -> None:
    """Run what is not finished, ``at_once`` side by side; raises RunError naming the runs that
    failed.
    """
    jobs = [(row, pair, seed) for seed in seeds for row in rows for pair in pairs]
    todo = [job for job in jobs if not (folder(out, *job) / "summary.json").exists()]
    print(f"{len(jobs) - len(todo)} of {len(jobs)} runs are finished")

    def go(job: tuple[str, str, int]) -> str | None:
        ran = subprocess.run(command(out, *job), capture_output=True, text=True)
        done = (folder(out, *job) / "summary.json").exists()
        print(f"{'/'.join(map(str, job))}: {'done' if done else 'failed'}", flush=True)
        return (
            None if done else f"{'/'.join(map(str, job))}: {ran.stderr.strip()[-300:]}"
        )

    with ThreadPoolExecutor(at_once) as pool:
        failed = [text for text in pool.map(go, todo) if text]
    if failed:
        raise RunError(f"{len(failed)} runs failed; the first: {failed[0]}")


def parser() -> Parser:
    """Return the command's arguments."""
    made = Parser(
        prog="python -m fedlearn.experiments.benchmarks.compression",
        description=(__doc__ or "").split("\n")[0],
    )
    made.add_argument("out", type=Path, help="the folder of the runs")
    made.add_argument(
        "--rows",
        nargs="+",
        choices=ROWS,
        default=list(ROWS),
        metavar="ROW",
        help=f"any of {', '.join(ROWS)}",
    )
    made.add_argument(
        "--pairs",
        nargs="+",
        choices=PAIRS,
        default=list(PAIRS)[:4],
        metavar="PAIR",
        help=f"any of {', '.join(PAIRS)}",
    )
    made.add_argument(
        "--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: 0 1 2"
    )
    made.add_argument(
        "--at-once",
        type=int,
        default=2,
        help="runs side by side, one core each; default: 2",
    )
    made.add_argument(
        "--table",
        action="store_true",
        help="print the table of what is finished, run nothing",
    )
    return made


def _run(given: argparse.Namespace) -> None:
    if not given.table:
        run(given.out, given.rows, given.pairs, given.seeds, max(1, given.at_once))
    print(table(given.out))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    given = parser().parse_args(argv)
    return ended(lambda: _run(given))


if __name__ == "__main__":
    sys.exit(main())
