"""Many worlds of rollouts by one command: `python -m tests.server.rollout_seeds 100000`.

Two numbers are the first seed and the one after the last. `--jobs` processes live through them;
what comes of a seed depends on the seed alone. `--mutant NAME` runs machines with a mistake in
them, and `--seed N --trace` tells one world. The exit code is 1 where an invariant broke.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from fedlearn.commands.arguments import Parser
from tests.server.rollout_world import MUTANTS, SOMETIMES, Broken, World

# Seeds that a process takes at once: some seconds.
CHUNK = 100

# Broken worlds that are named; of the others their number is enough.
NAMED = 10


@dataclass
class Lives:
    """What came of worlds. faults: by seed, which invariant broke and how."""

    worlds: int = 0
    happened: Counter[str] = field(default_factory=Counter)
    faults: dict[int, str] = field(default_factory=dict)

    def add(self, lives: Lives) -> None:
        """Add what came of other worlds."""
        self.worlds += lives.worlds
        self.happened += lives.happened
        self.faults |= lives.faults


def live(seeds: Sequence[int], mutant: str = "") -> Lives:
    """Live through worlds, one after another, in this process."""
    lives = Lives(len(seeds))
    for seed in seeds:
        try:
            lives.happened += World(seed, mutant).run()
        # The other worlds are told too: a fault is a kind only beside its like.
        except Broken as fault:
            lives.faults[seed] = str(fault)
    return lives


def live_in_processes(
    seeds: range, mutant: str = "", jobs: int = 1, chunk: int = CHUNK
) -> Iterator[Lives]:
    """Yield what came of each chunk of seeds, in the order in which they end."""
    chunks = [seeds[start : start + chunk] for start in range(0, len(seeds), chunk)]
    task = partial(live, mutant=mutant)
    if jobs == 1:
        yield from map(task, chunks)
        return
    # Spawned: a child depends on nothing that this process has done before.
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap_unordered(task, chunks)


def tell(lives: Lives, worlds: int, seconds: float) -> None:
    """Say on one line of the terminal how far it is."""
    left_s = seconds / lives.worlds * (worlds - lives.worlds)
    text = f"{lives.worlds:,} of {worlds:,} worlds, {len(lives.faults)} broken"
    end = "\r" if sys.stderr.isatty() else "\n"
    print(f"{text}, {left_s / 60:.0f} min left ", end=end, file=sys.stderr, flush=True)


def report(lives: Lives, seconds: float) -> None:
    """Print what came of all worlds."""
    for seed, fault in sorted(lives.faults.items())[:NAMED]:
        print(f"seed {seed}: {fault}")
    broken = Counter(fault.split()[0] for fault in lives.faults.values())
    kinds = ", ".join(f"{count} by {name}" for name, count in sorted(broken.items()))
    print(
        f"{lives.worlds:,} worlds in {seconds:.0f} s, {len(lives.faults)} broken"
        f"{f': {kinds}' if kinds else ''}"
    )
    for name, count in sorted(lives.happened.items()):
        print(f"{count:12,} {name}")
    # What never happens is not proven, however many worlds there were.
    never = [name for name in SOMETIMES if not lives.happened[name]]
    if never:
        print(f"never happened: {', '.join(never)}")


def parser() -> argparse.ArgumentParser:
    """Return the command's arguments."""
    words = Parser(prog="python -m tests.server.rollout_seeds", description=__doc__)
    words.add_argument("seeds", nargs="*", type=int, help="how many, or from and to")
    words.add_argument("--seed", type=int, help="this one alone")
    words.add_argument("--trace", action="store_true", help="tell what happens in it")
    words.add_argument("--mutant", choices=sorted(MUTANTS), default="")
    cores = len(os.sched_getaffinity(0))
    words.add_argument("--jobs", type=int, default=cores, help="processes at a time")
    return words


def trace(seed: int, mutant: str) -> int:
    """Tell one world; returns the exit code."""
    try:
        World(seed, mutant, print).run()
    except Broken as fault:
        print(f"seed {seed}: {fault}")
        return 1
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    words = parser()
    chosen = words.parse_args(arguments)
    if chosen.trace:
        if chosen.seed is None:
            words.error("--trace tells one world: give --seed N")
        return trace(chosen.seed, chosen.mutant)
    first, last = (0, *chosen.seeds)[-2:] if chosen.seeds else (0, 1000)
    if chosen.seed is not None:
        first, last = chosen.seed, chosen.seed + 1
    if len(chosen.seeds) > 2 or last <= first or chosen.jobs < 1:
        words.error("give how many seeds, or from and to, and at least one job")
    lives = Lives()
    began = time.monotonic()
    for part in live_in_processes(range(first, last), chosen.mutant, chosen.jobs):
        lives.add(part)
        tell(lives, last - first, time.monotonic() - began)
    report(lives, time.monotonic() - began)
    return 1 if lives.faults else 0


if __name__ == "__main__":
    sys.exit(main())
