"""How many updates a second the journal makes durable, beside a plain file and SQLite.

python -m fedlearn.experiments.benchmarks.journal [--folder DIR] [--seconds S] [--repeats N]

All three write to the same disk in the same run. A group of updates is handed over at once, and
the next one when all of it is on disk: 1 is an agent that waits for its acknowledgement, 32 a
round whose updates come together. The methods take turns, in changing order, so a disk that is
slow for a while is slow for all of them; each figure is the median of the repeats.

journal  server/journal.py: its thread, index and checksums included
plain    the same bytes with one write per update and one fdatasync per group: the least that
         any durable method does
sqlite   a table of keys and blobs, WAL, synchronous=FULL, one commit per group
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from fedlearn.commands.arguments import Parser, ended
from fedlearn.server.journal import Journal

SIZES = {"66 KB": 66_000, "6.65 MB": 6_650_000}
GROUPS = (1, 8, 32)

Write = Callable[[list[str], bytes], None]


@contextmanager
def journal(folder: Path) -> Iterator[Write]:
    """Yield a function that makes a group of updates durable."""
    with closing(Journal(folder / "journal")) as log:

        def write(keys: list[str], data: bytes) -> None:
            for future in [log.append({"key": key}, data) for key in keys]:
                future.result()

        yield write


@contextmanager
def plain(folder: Path) -> Iterator[Write]:
    """Like `journal`, appending to one file."""
    with open(folder / "plain", "ab", buffering=0) as file:

        def write(keys: list[str], data: bytes) -> None:
            for _ in keys:
                file.write(data)
            os.fdatasync(file.fileno())

        yield write


@contextmanager
def sqlite(folder: Path) -> Iterator[Write]:
    """Like `journal`, in a database."""
    with closing(sqlite3.connect(folder / "sqlite", isolation_level=None)) as base:
        base.execute("PRAGMA journal_mode=WAL")
        base.execute("PRAGMA synchronous=FULL")
        base.execute("CREATE TABLE updates (key TEXT PRIMARY KEY, data BLOB)")

        def write(keys: list[str], data: bytes) -> None:
            base.execute("BEGIN")
            base.executemany(
                "INSERT INTO updates VALUES (?, ?)", ((key, data) for key in keys)
            )
            base.execute("COMMIT")

        yield write


METHODS = {"journal": journal, "plain": plain, "sqlite": sqlite}


def speed(method: str, folder: Path, size: int, group: int, seconds: float) -> float:
    """Return updates per second of ``size`` random bytes; at least two groups, and a first one
    that does not count.
    """
    data = os.urandom(size)
    with (
        tempfile.TemporaryDirectory(dir=folder) as name,
        METHODS[method](Path(name)) as write,
    ):
        write([f"first.{i}" for i in range(group)], data)
        begun, groups = time.perf_counter(), 0
        while groups < 2 or time.perf_counter() - begun < seconds:
            write([f"{groups}.{i}" for i in range(group)], data)
            groups += 1
        return groups * group / (time.perf_counter() - begun)


def table(folder: Path, seconds: float, repeats: int) -> Iterator[str]:
    """Yield the lines of the result."""
    yield (
        f"{'update':<9}{'group':>6}"
        + "".join(f"{f'{m} /s':>14}" for m in METHODS)
        + f"{'MB/s':>9}{'/plain':>9}{'/sqlite':>9}"
    )
    for text, size in SIZES.items():
        for group in GROUPS:
            found: dict[str, list[float]] = {method: [] for method in METHODS}
            for turn in range(repeats):
                # Nobody is always the one who finds what another left: dirty pages, or pages
                # that are free and warm.
                for method in [*METHODS][turn % 3 :] + [*METHODS][: turn % 3]:
                    found[method].append(speed(method, folder, size, group, seconds))
            rate = {
                method: statistics.median(values) for method, values in found.items()
            }
            ours = rate["journal"]
            yield (
                f"{text:<9}{group:>6}"
                + "".join(f"{value:>14,.1f}" for value in rate.values())
                + f"{ours * size / 1e6:>9.0f}"
                + f"{ours / rate['plain']:>9.2f}{ours / rate['sqlite']:>9.2f}"
            )


def opening(folder: Path) -> str:
    """Return a line about opening a journal of 2,000 updates of 66 KB, and about reading their
    order.
    """
    with tempfile.TemporaryDirectory(dir=folder) as name:
        with journal(Path(name)) as write:
            for group in range(20):
                write([f"{group}.{i}" for i in range(100)], os.urandom(66_000))
        begun = time.perf_counter()
        with closing(Journal(Path(name) / "journal")) as log:
            opened = time.perf_counter()
            count = sum(1 for _ in log.records())
        return (
            f"opening {count:,} updates of 66 KB (cached): {opened - begun:.2f} s; "
            f"their order: {time.perf_counter() - opened:.3f} s"
        )


def parser() -> argparse.ArgumentParser:
    """Return the command's arguments."""
    p = Parser(
        prog="python -m fedlearn.experiments.benchmarks.journal",
        description=(
            "Measure how many updates a second the journal, a plain file and "
            "SQLite make durable."
        ),
    )
    p.add_argument(
        "--folder",
        type=Path,
        default=Path("."),
        metavar="DIR",
        help="where to write: the disk to measure (default: here)",
    )
    p.add_argument(
        "--seconds",
        type=float,
        default=1.0,
        metavar="S",
        help="time per figure and repeat (default: 1)",
    )
    p.add_argument(
        "--repeats",
        type=int,
        default=6,
        metavar="N",
        help="how often the methods take turns (default: 6)",
    )
    return p


def run(folder: Path, seconds: float, repeats: int) -> None:
    """Measure and print."""
    for line in table(folder, seconds, repeats):
        print(line, flush=True)
    print(opening(folder), flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    args = parser().parse_args(arguments)
    if args.repeats < 1 or not args.folder.is_dir():
        parser().error(
            "--repeats must be 1 or more"
            if args.repeats < 1
            else f"--folder: {args.folder} is not a folder"
        )
    return ended(lambda: run(args.folder, args.seconds, args.repeats))


if __name__ == "__main__":
    sys.exit(main())
