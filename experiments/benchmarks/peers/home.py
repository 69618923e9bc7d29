"""What stands beside the peers: our own engine, and the loops that people write by hand, as
processes that wait for their turns.

python -m fedlearn.experiments.benchmarks.peers.home ours CONFIG.toml
python -m fedlearn.experiments.benchmarks.peers.home lean|naive WORKLOAD.npz THREADS
    THREADS: how many the loop may use; 0 leaves the choice to torch

A round of ours is one of ``fedlearn simulate``: messages, payloads, sums, the line and the
checkpoint included. No round is evaluated.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fedlearn.experiments.benchmarks.peers.scripts import seam


class Display:
    """A run's display that waits for a turn after each round."""

    def __init__(self, turns: seam.Turns) -> None:
        """Take the turns."""
        self._rounds: Iterator[int] = turns.rounds(None, None)

    def start(self, facts: Mapping[str, Any]) -> None:
        """Do nothing."""

    def client_done(self, done: int, total: int) -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Print what a user would see."""
        print(f"note: {text}", file=sys.stderr)

    def round_done(self, line: Mapping[str, Any]) -> None:
        """Wait for a turn, before the first round too: the initial model has a line of its own.
        The end of turns ends the run.
        """
        if next(self._rounds, None) is None:
            raise SystemExit(0)


def ours(path: str) -> None:
    """Run an experiment, a round a turn."""
    turns = seam.Turns()
    from fedlearn import config
    from fedlearn.records.writing import RunFolder
    from fedlearn.runs.simulation import simulate

    display: Any = Display(turns)
    with tempfile.TemporaryDirectory() as folder:
        simulate(config.read(path), RunFolder(Path(folder) / "run"), display)


def loop(kind: str, path: str, threads: int) -> None:
    """Run a loop written by hand, a round a turn."""
    turns = seam.Turns()
    import torch

    from fedlearn.experiments.benchmarks import loops
    from fedlearn.experiments.benchmarks.peers.scripts import textbook
    from fedlearn.experiments.benchmarks.workloads import WORKLOADS

    if threads:
        torch.set_num_threads(threads)
    name = seam.Work(path).name
    round = {"lean": loops.lean, "naive": loops.naive}[kind](WORKLOADS[name])
    for number in turns.rounds(
        textbook.parameters(textbook.MODELS[name]()), torch.get_num_threads()
    ):
        round(number)


if __name__ == "__main__":
    if sys.argv[1] == "ours":
        ours(sys.argv[2])
    else:
        loop(sys.argv[1], sys.argv[2], int(sys.argv[3]))
