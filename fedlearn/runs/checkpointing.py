"""`Checkpointer`: when a checkpoint is due, and writing it beside the next round.

Legend: a checkpoint's file holds the model and what the strategy remembers; what clients
keep lies outside it (`fedlearn.memory`), and goes to disk before.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from flwr.serverapp.strategy import Strategy

from fedlearn.arrays import State
from fedlearn.memory.clients import Remembered
from fedlearn.records.writing import RunFolder
from fedlearn.runs import checkpoint
from fedlearn.strategies import remember
from fedlearn.strategies.train_config import TrainConfig

# Seconds between two checkpoints of quick rounds, where ``checkpoint_every`` leaves it to
# us. A small model's checkpoint takes a sixth of its round (2.7 of 15 ms on W1 of
# docs/performance.md), and a kill costs half a second at most.
PAUSE_S = 0.5


class Checkpointer:
    """Writes the checkpoints of one run."""

    def __init__(
        self,
        folder: RunFolder,
        strategy: Strategy,
        config: TrainConfig,
        remembered: Sequence[Remembered],
        every: int,
        beside: bool,
    ) -> None:
        """Take what is written.

        config: what the strategy's rounds share. remembered: what lies outside the
        checkpoint. every: rounds between checkpoints; 0: every round, or one in
        `PAUSE_S`. beside: write while the next round goes on; a kill then costs that
        round too, and never more.
        """
        self.folder = folder
        self.strategy = strategy
        self.config = config
        self.remembered = remembered
        self.every = every
        self._writer = ThreadPoolExecutor(1, "checkpoint") if beside else None
        self._pending: Future[None] | None = None
        self._begun = -math.inf
        self._forgotten: set[str] = set()

    def due(self, round: int) -> bool:
        """Return whether a checkpoint is due after a round."""
        # A run that waits for its checkpoints was asked to lose nothing: each round counts.
        if self.every or not self._writer:
            return round % (self.every or 1) == 0
        if time.perf_counter() - self._begun < PAUSE_S:
            return False
        # A slow disk must not collect checkpoints that nobody needs any more.
        return self._pending is None or self._pending.done()

    def write(self, round: int, model: State) -> set[str]:
        """Write a checkpoint, or begin to.

        Returns what the strategy keeps and no checkpoint holds, each name once. Raises
        RecordError.
        """
        arrays: remember.Arrays = {}
        memory = {
            "strategy": remember.remember(self.strategy, arrays),
            "train_config": remember.save(self.config.own(), arrays),
        }
        # What is kept of clients may forget an older checkpoint only when the last one is
        # on disk.
        self.wait()
        for part in self.remembered:
            arrays |= part.sync()
        self._begun = time.perf_counter()
        snapshot = checkpoint.Checkpoint(round, model, memory, arrays)
        if self._writer:
            # Copied, because the strategy may change its own meanwhile.
            copies = {name: array.copy() for name, array in arrays.items()}
            snapshot = replace(snapshot, arrays=copies)
            self._pending = self._writer.submit(self._write, snapshot)
        else:
            self._write(snapshot)
        for part in self.remembered:
            part.checkpointed()
        return self._newly_forgotten()

    def wait(self) -> None:
        """Wait until the last checkpoint is on disk. Raises RecordError when it cannot be."""
        if self._pending:
            self._pending.result()

    def close(self) -> None:
        """End the writer; whatever happened, the last checkpoint is whole then."""
        if self._writer:
            self._writer.shutdown()

    def _write(self, snapshot: checkpoint.Checkpoint) -> None:
        # Lines first: a checkpoint without its lines would understate the bytes.
        self.folder.sync_lines()
        checkpoint.write(self.folder, snapshot)

    def _newly_forgotten(self) -> set[str]:
        names = set(remember.forgets(self.strategy)) - self._forgotten
        self._forgotten |= names
        return names
