"""Our engine beside other frameworks on the workloads W1 to W4: a round of each in turn.

python -m fedlearn.experiments.benchmarks.peers [W1 W2 W3 W4] [--peers NAME …]
    [--envs FOLDER] [--plot FILE] [--markdown | --json]
python -m fedlearn.experiments.benchmarks.peers --make [--peers NAME …] [--envs FOLDER]

The same work for all: the same models, cohorts and batches, one local epoch of plain SGD in
float32, the samples of all 100 clients in memory, a cohort drawn each round, an average
weighted by examples, no evaluation. Each peer runs in an environment of its own with the
versions in ``requirements/``, through its own simulation engine and as its own tutorials do.

"of lean" is the median of a competitor's round over the lean loop's in the same turn; below 1
is faster. "cores used" is the processor time of its processes over the time that its rounds
took. "start to round 1" is from the process's start, with the other competitors waiting. Memory
is what its processes made, after the last round, each page counted once though they share it;
files that they map, as libraries, are not in it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from fedlearn.commands.arguments import Parser, ended
from fedlearn.engine import ENGINES
from fedlearn.errors import ConfigError
from fedlearn.experiments.benchmarks.peers import environments
from fedlearn.experiments.benchmarks.workloads import WORKLOADS


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = Parser(
        prog="python -m fedlearn.experiments.benchmarks.peers",
        description=(__doc__ or "").split("\n\n")[0],
    )
    made.add_argument(
        "workloads", nargs="*", metavar="W", help="W1 to W4 (default: all)"
    )
    made.add_argument(
        "--peers",
        nargs="*",
        default=[*environments.PEERS],
        choices=[*environments.PEERS],
        metavar="NAME",
        help="(default: all)",
    )
    made.add_argument(
        "--engines",
        nargs="+",
        default=["pool"],
        choices=[*ENGINES],
        metavar="NAME",
        help="ours (default: pool)",
    )
    made.add_argument(
        "--envs",
        default=str(environments.DEFAULT),
        metavar="FOLDER",
        help=f"(default: {environments.DEFAULT})",
    )
    made.add_argument(
        "--make",
        action="store_true",
        help="make the environments that are missing (about 5 GB), and stop",
    )
    made.add_argument(
        "--rounds",
        type=int,
        default=15,
        help="rounds that count, at least 5 (default: 15)",
    )
    made.add_argument(
        "--starts",
        type=int,
        default=2,
        help="how often each is started; the fastest start counts (default: 2)",
    )
    made.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="change a key of our experiment",
    )
    made.add_argument("--plot", metavar="FILE", help="draw the ratios")
    form = made.add_mutually_exclusive_group()
    form.add_argument("--markdown", action="store_true", help="tables in Markdown")
    form.add_argument("--json", action="store_true", help="one JSON object a line")
    return made


def _run(given: argparse.Namespace) -> None:
    if unknown := [name for name in given.workloads if name not in WORKLOADS]:
        raise ConfigError(
            f"no workload {', '.join(unknown)}; there are {', '.join(WORKLOADS)}"
        )
    if given.rounds < 5 or given.starts < 1:
        raise ConfigError(
            "--rounds is below 5" if given.rounds < 5 else "--starts is below 1"
        )
    envs = Path(given.envs).expanduser()
    if given.make:
        _make(envs, given.peers)
    else:
        _race(given, envs)


def _make(envs: Path, peers: Sequence[str]) -> None:
    for peer in peers:
        if environments.installed(envs, peer):
            print(f"{peer}: is there")
            continue
        print(f"{peer}: making {envs / peer}", flush=True)
        environments.make(envs, peer)


def _race(given: argparse.Namespace, envs: Path) -> None:
    from fedlearn.experiments.benchmarks.peers import tables
    from fedlearn.experiments.benchmarks.peers.race import race

    races = []
    for name in given.workloads or WORKLOADS:
        entries = race(
            WORKLOADS[name],
            given.engines,
            given.peers,
            envs,
            given.rounds,
            given.starts,
            given.set,
        )
        races.append(entries)
        if given.json:
            print("\n".join(json.dumps(asdict(entry)) for entry in entries), flush=True)
        else:
            print(
                (tables.markdown if given.markdown else tables.plain)(entries),
                end="\n\n",
                flush=True,
            )
    if given.plot:
        tables.plot(Path(given.plot), races)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    given = parser().parse_args(argv)
    return ended(lambda: _run(given))


if __name__ == "__main__":
    sys.exit(main())
