"""What ways of choosing come to on traces, beside two kinds of the best in hindsight.

python -m fedlearn.experiments.benchmarks.placed [TRACE …] [--seeds N …]

A trace is a name of `fedlearn place replay`, which is drawn for every seed, or a CSV file
that `placing` has recorded. Figures are multiples of the best places in hindsight
(`planned_s`), and of what knows the chance of every request (`hindsight_s`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fedlearn.clients.placement import hindsight, replay, traces
from fedlearn.commands.arguments import Parser, ended

HEADING = (
    "| trace | requests | placed | with chance known | last value | always edge "
    "| always centre | probes |\n|---|---|---|---|---|---|---|---|"
)


def parser() -> Parser:
    """Return the command's arguments."""
    parser = Parser(prog="placed", description="Ways of choosing, on traces.")
    parser.add_argument("traces", nargs="*", metavar="TRACE", default=[*traces.TRACES])
    parser.add_argument("--seeds", nargs="+", type=int, default=[*range(100, 110)])
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and return its exit code."""
    arguments = parser().parse_args(argv)
    return ended(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    print(HEADING, flush=True)
    for source in arguments.traces:
        # What was recorded is what it is, whatever the seed.
        seeds = arguments.seeds if source in traces.TRACES else [0]
        for seed in seeds:
            print(line(source, seed), flush=True)


def line(source: str, seed: int) -> str:
    """Return a line of the table. Raises UserError and DataError for what is no trace."""
    trace = traces.load(source, seed)
    planned_s = hindsight.planned_s(trace)
    # Of one trace, so all ways meet the same link.
    outcomes = {
        name: replay.replay(trace, chooser)
        for name, chooser in replay.choosers().items()
    }
    placed = outcomes["placed"]
    name = f"{source} {seed}" if source in traces.TRACES else Path(source).stem
    multiples = [
        placed.total_s / planned_s,
        placed.total_s / hindsight.hindsight_s(trace),
    ]
    for way in ("last value", "always edge", "always centre"):
        multiples.append(outcomes[way].total_s / planned_s)
    cells = [name, str(len(trace)), *(f"{multiple:.3f}" for multiple in multiples)]
    return f"| {' | '.join([*cells, str(placed.probes)])} |"


if __name__ == "__main__":
    sys.exit(main())
