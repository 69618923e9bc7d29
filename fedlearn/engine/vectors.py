"""One float vector per client, in a file that every process reads: what each client holds between its rounds.

Four slots a client: a new vector goes where neither of the last two checkpoints looks, nor its predecessor lies. So a run
that is killed at any moment still has, for every client, the vector of its last whole checkpoint, and a round that is void
can be undone. The file is sparse: a client that was never asked takes no room. Plain reads and writes, not a memory map: a
full disk is an error here, and would be a killed process there.

Legend: N clients, P values.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlearn.errors import RecordError

SLOTS = 4
"""The last two checkpoints name one each; the newest vector has one, and its successor needs another."""

NONE = -1
"""The slot of a client that has no vector yet."""


class ClientVectors:
    """N × 4 slots of P float32; opened before the workers are forked, who share the file."""

    def __init__(self, path: Path, clients: int, size: int) -> None:
        """Open the file, made if need be; its name names the vectors in checkpoints. Raises RecordError."""
        self.path, self.clients, self.size = path, clients, size
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise RecordError(f"cannot keep clients' vectors in {path}: {error.strerror}") from error
        self.now = np.full(clients, NONE, np.int8)  # the slot of each client's newest vector
        self.digests = np.zeros((clients, 8), np.uint8)  # of the newest vectors: a damaged file is noticed
        self._kept = [self.now, self.now]  # the slots of the last two checkpoints
        self._before: list[tuple[int, int, NDArray[np.uint8]]] = []  # of clients noted since `settle`

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def read(self, client: int, slot: int) -> NDArray[np.float32]:
        """Return a copy of a vector (P,); what the file does not hold (it was damaged) reads as 0. Raises RecordError."""
        out = np.zeros(self.size, np.float32)
        view, at = out.view(np.uint8).data, self._place(client, slot)
        try:
            while len(view) and (got := os.preadv(self._file, [view], at)):
                view, at = view[got:], at + got
        except OSError as error:
            raise RecordError(f"cannot read {self.path}: {error.strerror}; --resume goes on from the last checkpoint") from error
        return out

    def write(self, client: int, slot: int, vector: NDArray[np.float32]) -> None:
        """Write a vector (P,); raises RecordError when there is no room."""
        view, at = np.ascontiguousarray(vector).view(np.uint8).data, self._place(client, slot)
        try:
            while len(view):
                done = os.pwrite(self._file, view, at)
                view, at = view[done:], at + done
        except OSError as error:
            raise self._unwritten(error) from error

    def free(self, client: int) -> int:
        """Return the slot that a client's next vector may be written to."""
        taken = {int(slots[client]) for slots in (*self._kept, self.now)}
        return next(slot for slot in range(SLOTS) if slot not in taken)

    def wrote(self, client: int, slot: int, digest: bytes) -> None:
        """Note that a slot holds a client's newest vector."""
        self._before.append((client, int(self.now[client]), self.digests[client].copy()))
        self.now[client], self.digests[client] = slot, np.frombuffer(digest, np.uint8)

    def settle(self) -> None:
        """Keep what was noted so far: `undo` goes back no further."""
        self._before = []

    def undo(self, only: int | None = None) -> None:
        """Go back to the vectors at the last `settle`, of one client or of all: what the newer ones belong to was void."""
        for client, slot, digest in reversed(self._before):
            if only in (None, client):
                self.now[client], self.digests[client] = slot, digest
        self._before = [noted for noted in self._before if only not in (None, noted[0])]

    def sync(self) -> dict[str, NDArray[Any]]:
        """Bring the vectors to disk and return what a checkpoint has to hold of them; raises RecordError."""
        try:
            os.fsync(self._file)
        except OSError as error:
            raise self._unwritten(error) from error
        return {f"{self.path.stem}.slots": self.now.copy(), f"{self.path.stem}.digests": self.digests.copy()}

    def checkpointed(self) -> None:
        """Keep the newest vectors from now on: the checkpoint that names them is on disk."""
        self._kept = [self._kept[1], self.now.copy()]
        self.settle()

    def recall(self, saved: Mapping[str, NDArray[Any]] | None, older: Mapping[str, NDArray[Any]] | None = None) -> None:
        """Go back to the vectors that a checkpoint names; None: to no vectors at all. older: the one before, still kept."""
        slots = f"{self.path.stem}.slots"
        self.now = np.full(self.clients, NONE, np.int8)
        if saved is not None:
            self.now, self.digests = saved[slots].copy(), saved[f"{self.path.stem}.digests"].copy()
        self._kept, self._before = [(older or {}).get(slots, self.now).copy(), self.now.copy()], []

    def _place(self, client: int, slot: int) -> int:
        return 4 * self.size * (SLOTS * client + slot)

    def _unwritten(self, error: OSError) -> RecordError:
        return RecordError(f"cannot write {self.path}: {error.strerror}; --resume goes on from the last checkpoint")
