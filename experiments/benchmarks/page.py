"""The measured part of docs/performance.md: what a round costs, beside what was aimed at.

python -m fedlearn.experiments.benchmarks.page [--out FILE] [--rounds N] [--without-peers] [--print]

It takes about half an hour on two cores, and the machine has to be idle. The tables replace
what stands between the two marks of the page, and the picture of the peers goes beside it.
Peers are skipped with a word where their environments are not made (python -m
fedlearn.experiments.benchmarks.peers --make).
"""

from __future__ import annotations

import argparse
import datetime
import platform
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedlearn.commands.arguments import Parser, ended
from fedlearn.devices import peak
from fedlearn.devices.machine import cores, processor
from fedlearn.errors import ConfigError
from fedlearn.experiments.benchmarks import fedsgd, speed, startup
from fedlearn.experiments.benchmarks.peers import environments, tables
from fedlearn.experiments.benchmarks.peers.race import race
from fedlearn.experiments.benchmarks.workloads import WORKLOADS

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"

PICTURE = "img/peers.png"

EDEN = ("codec.up=eden1", "codec.down=eden1")


@dataclass(frozen=True)
class Row:
    """One measurement, and what was aimed at: the ratio to the lean loop, the share outside
    training, the memory in MB.
    """

    workload: str
    engine: str
    name: str
    overrides: tuple[str, ...] = ()
    ratio: float | None = None
    outside: float | None = None
    memory: float | None = None


ROWS = (
    Row("W1", "pool", "pool"),
    Row("W1", "stacked", "stacked, 5"),
    Row("W1", "auto", "auto", (), 0.33, 0.30, 400),
    Row("W2", "pool", "pool", (), 0.30, 0.08, 470),
    Row("W2", "stacked", "stacked, 5", (), 0.30, 0.08, 470),
    Row(
        "W2",
        "pool",
        "pool, eden1 both ways, `cast`",
        (*EDEN, "codec.downlink=cast"),
        None,
        0.25,
    ),
    Row("W2", "pool", "pool, eden1 both ways, `shadow`", EDEN, None, 0.25),
    Row("W3", "pool", "pool", (), 0.52),
    Row("W3", "pool", "pool, bfloat16", ("train.precision=bfloat16",), 0.40),
    Row("W4", "pool", "pool", (), 0.52),
    Row("W4", "pool", "pool, bfloat16", ("train.precision=bfloat16",), 0.45),
)

AGAINST = {"W1": ["auto"], "W2": ["pool", "stacked"], "W3": ["pool"], "W4": ["pool"]}
"""Our engines in the race with the peers."""


def against_aim(value: float, aim: float | None, form: str) -> str:
    """Return a figure, what was aimed at, and whether it is missed."""
    text = format(value, form)
    return (
        text
        if aim is None
        else f"**{text}** (≤ {aim:{form}}{', missed' if value > aim else ''})"
    )


def rounds_table(rounds: int, gflops: float) -> Iterator[str]:
    """Yield the table of `ROWS`, a line as it is measured. gflops: the machine's peak."""
    yield (
        "| | engine | ms a round | of lean | GFLOP/s | of the peak | "
        "outside training | memory, MB |"
    )
    yield "|---|---|---:|---:|---:|---:|---:|---:|"
    for row in ROWS:
        found = speed.apart(
            WORKLOADS[row.workload], row.engine, rounds, row.overrides, ["lean"]
        )
        cells = (
            row.workload,
            row.name,
            f"{found['ms']:.1f}",
            against_aim(found["ratio"]["lean"], row.ratio, ".2f"),
            f"{found['gflops']:.0f}",
            f"{found['gflops'] / gflops:.0%}",
            against_aim(found["outside"], row.outside, ".0%"),
            against_aim(found["memory_mb"], row.memory, ".0f"),
        )
        yield f"| {' | '.join(cells)} |"


def starts(times: int = 5) -> Iterator[str]:
    """Yield how long W1 takes to the end of its first round."""
    imports, taken = startup.measure("W1", ["pool", "auto"], times)
    ours = ", ".join(
        f"{engine} {against_aim(statistics.median(each), 4.5, '.2f')} s"
        for engine, each in taken.items()
    )
    alone = f"`{startup.BESIDE}` alone {statistics.median(imports):.2f} s"
    yield f"From the start of the process to the end of W1's first round: {ours}; {alone}."


def collapsed(rounds: int) -> Iterator[str]:
    """Yield what FedSGD gains from `collapse`."""
    yield "| FedSGD, a full batch a client | ms a round | collapsed | ratio |"
    yield "|---|---:|---:|---:|"
    for name in WORKLOADS:
        found = {
            kind: [total for total, _ in each]
            for kind, each in fedsgd.measure(name, "pool", rounds).items()
        }
        ratio = statistics.median(
            a / b for a, b in zip(found["with"], found["without"], strict=True)
        )
        medians = {kind: 1e3 * statistics.median(each) for kind, each in found.items()}
        yield f"| {name} | {medians['without']:.1f} | {medians['with']:.1f} | {ratio:.2f} |"


def peers(picture: Path, rounds: int) -> Iterator[str]:
    """Yield a table for each workload, and draw the picture."""
    races: list[Any] = []
    for name, engines in AGAINST.items():
        races.append(
            race(
                WORKLOADS[name],
                engines,
                list(environments.PEERS),
                environments.DEFAULT.expanduser(),
                rounds,
                1,
                [],
            )
        )
        yield tables.markdown(races[-1])
        yield ""
    tables.plot(picture, races)


def page(given: argparse.Namespace, picture: Path) -> Iterator[str]:
    """Yield the measured part, line by line as it is measured."""
    import torch

    best = peak.measure()
    if best is None:
        raise ConfigError(
            "the machine's peak cannot be measured here; see --profile in docs/performance.md"
        )
    today = datetime.datetime.now(datetime.UTC).date()
    yield (
        f"{cores()} cores of {processor()}, Python {platform.python_version()}, torch "
        f"{torch.__version__}, {today}. "
        f"Peak: {best.all_gflops:.0f} GFLOP/s (`--profile`)."
    )
    yield ""
    yield from rounds_table(given.rounds, best.all_gflops)
    yield ""
    yield from starts()
    yield ""
    yield from collapsed(given.rounds)
    if not given.without_peers:
        yield ""
        yield from peers(picture, given.rounds)
        yield f"![A round's time over the lean loop's]({PICTURE})"


def put(path: Path, lines: Sequence[str]) -> None:
    """Replace what stands between the marks of a page; raises ConfigError where they are not
    there.
    """
    text = path.read_text() if path.exists() else ""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ConfigError(
            f"{path} has no place for the tables: a line {BEGIN} and a line {END}"
        )
    before, rest = text.split(BEGIN)
    path.write_text("\n".join([before + BEGIN, *lines, END]) + rest.split(END)[1])


def _run(given: argparse.Namespace) -> None:
    out = Path(given.out)
    if not given.print:
        put(
            out,
            out.read_text().split(BEGIN)[-1].split(END)[0].strip("\n").split("\n")
            if out.exists()
            else [],
        )  # before half an hour is spent
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for line in page(
            given, Path(folder) / "peers.png" if given.print else out.parent / PICTURE
        ):
            print(line, flush=True)
            lines.append(line)
    if not given.print:
        put(out, lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = Parser(
        prog="python -m fedlearn.experiments.benchmarks.page",
        description=(__doc__ or "").split("\n\n")[0],
    )
    parser.add_argument(
        "--out",
        default="docs/performance.md",
        metavar="FILE",
        help="the page (default: docs/performance.md)",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=11,
        help="rounds of each that count, at least 5 (default: 11)",
    )
    parser.add_argument(
        "--without-peers", action="store_true", help="leave out the other frameworks"
    )
    parser.add_argument(
        "--print", action="store_true", help="print, and leave the page as it is"
    )
    given = parser.parse_args(argv)
    if given.rounds < 5:
        parser.error("--rounds is below 5")
    return ended(lambda: _run(given))


if __name__ == "__main__":
    sys.exit(main())
