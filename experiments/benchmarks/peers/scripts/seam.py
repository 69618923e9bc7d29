"""What every competitor's script has: the workload's arrays, and turns that the command gives.

Words on standard input and output, one line each: the script says that it is ready (JSON:
parameters, threads), hears "go", does one round, says its seconds (JSON), hears "go" again, and
ends when standard input does. Whatever else the script's libraries print goes to standard
error. Runs in each peer's own Python: numpy and the standard library only.

Legend: N samples of all clients, K classes.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from collections.abc import Iterator
from typing import Any, NoReturn

import numpy as np

LR = 0.05


class Work:
    """One workload: what a round has to do, and every client's samples in memory."""

    def __init__(self, path: str) -> None:
        """Read the file that ``write`` wrote."""
        with np.load(path) as arrays:
            told = json.loads(str(arrays["told"]))
            ends = np.cumsum(arrays["sizes"])[:-1]
            x, y = arrays["x"], arrays["y"].astype(np.int64)
        self.name: str = told["name"]
        self.cohort: int = told["cohort"]
        self.batch_size: int = told["batch_size"]
        self.rounds: int = told["rounds"]
        self.clients: list[tuple[Any, Any]] = list(
            zip(np.split(x, ends), np.split(y, ends), strict=True)
        )

    def draw(self, number: int) -> list[int]:
        """Return the cohort of a round, the same for every competitor that lets itself be told."""
        return [
            int(c)
            for c in np.random.default_rng(number).permutation(len(self.clients))[
                : self.cohort
            ]
        ]


@functools.cache
def read(path: str) -> Work:
    """Return a workload; a process reads it once."""
    return Work(path)


def write(
    path: str,
    name: str,
    cohort: int,
    batch_size: int,
    rounds: int,
    clients: list[tuple[Any, Any]],
) -> None:
    """Write a workload for scripts. clients: inputs as the model takes them, and targets;
    rounds: how many there will be.
    """
    told = json.dumps(
        {"name": name, "cohort": cohort, "batch_size": batch_size, "rounds": rounds}
    )
    x, y = (np.concatenate([each[i] for each in clients]) for i in (0, 1))
    np.savez(
        path,
        x=x,
        y=y,
        sizes=[len(targets) for _, targets in clients],
        told=np.array(told),
    )


class Turns:
    """The script's end of the line."""

    def __init__(self) -> None:
        """Take standard output for the answers, and give it up for all else."""
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def say(self, **told: Any) -> None:
        """Tell the command something."""
        print(json.dumps(told), file=self._answers, flush=True)

    def refuse(self, why: str) -> NoReturn:
        """End, because the peer cannot do this workload. why: a few words for the table."""
        self.say(refused=why)
        sys.exit(0)

    def rounds(self, parameters: int | None, threads: int | None) -> Iterator[int]:
        """Say that all is ready, and give the number of each round as its turn comes; the
        time until the next is asked for is told.

        A peer that has its own loop over rounds asks for one turn before it and one at each
        round's end. parameters: the numbers that the model learns; threads: how many it was
        given; None where they are not told.
        """
        self.say(parameters=parameters, threads=threads)
        number = 0
        while sys.stdin.readline():
            begun = time.perf_counter()
            yield number
            self.say(seconds=time.perf_counter() - begun)
            number += 1
