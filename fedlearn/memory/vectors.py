"""One float vector per client, in a file that every process reads: what each client holds between its rounds.

Four slots a client: a new vector goes where neither of the last two checkpoints looks, nor its predecessor lies. So a run
that is killed at any moment still has, for every client, the vector of its last whole checkpoint, and a round that is void
can be undone. A client gets its slots when it is first asked: one that never is takes no room, here or in memory. Plain reads
and writes, not a memory map: a full disk is an error here, and would be a killed process there.

Legend: N clients, P values.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlearn.errors import RecordError
from fedlearn.memory.versions import Row, Versions

SLOTS = 4
"""The last two checkpoints name one each; the newest vector has one, and its successor needs another."""

NONE = -1
"""The slot of a client that has no vector yet."""


class ClientVectors:
    """Slots of P float32, opened before the workers are forked, who share the file; which slot is whose, the parent alone knows."""

    def __init__(self, path: Path, clients: int, size: int) -> None:
        """Open the file, made if need be; its name names the vectors in checkpoints. Raises RecordError."""
        self.path, self.clients, self.size = path, clients, size
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise RecordError(
                f"cannot keep clients' vectors in {path}: {error.strerror}"
            ) from error
        self.versions = Versions(
            path.with_suffix(".sqlite")
        )  # of each client's newest vector: its slot and its digest
        self._owners = 0  # clients that have slots
        self._new: dict[
            int, int
        ] = {}  # of clients that had none at the last `settle`: the first of theirs
        self._spare: list[
            int
        ] = []  # first slots of clients that were given some, and then noted nothing
        self._before: list[
            tuple[int, Sequence[Row]]
        ] = []  # of clients noted since `settle`

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)
        self.versions.close()

    def newest(self, client: int) -> tuple[int, bytes]:
        """Return the slot of a client's newest vector, and the digest by which damage is noticed; `NONE` and zeros: it has none."""
        found = self.versions.newest(client)
        return _slot(found[1]) if found else (NONE, bytes(8))

    def since(self, client: int) -> int:
        """Return the moment of a client's newest vector; 0: it has none."""
        found = self.versions.newest(client)
        return found[0] if found else 0

    def read(self, client: int, slot: int) -> NDArray[np.float32]:
        """Return a copy of a vector (P,); what the file does not hold (it was damaged) reads as 0. Raises RecordError."""
        out = np.zeros(self.size, np.float32)
        view, at = out.view(np.uint8).data, 4 * self.size * slot
        try:
            while len(view) and (got := os.preadv(self._file, [view], at)):
                view, at = view[got:], at + got
        except OSError as error:
            raise RecordError(
                f"cannot read client {client}'s vector in {self.path}: {error.strerror}; --resume goes on from the last checkpoint"
            ) from error
        return out

    def write(self, client: int, slot: int, vector: NDArray[np.float32]) -> None:
        """Write a vector (P,); raises RecordError when there is no room."""
        view, at = (
            np.ascontiguousarray(vector).view(np.uint8).data,
            4 * self.size * slot,
        )
        try:
            while len(view):
                done = os.pwrite(self._file, view, at)
                view, at = view[done:], at + done
        except OSError as error:
            raise self._unwritten(error) from error

    def free(self, client: int) -> int:
        """Return the slot that a client's next vector may be written to."""
        taken = [_slot(content)[0] for _, content in self.versions.rows(client)]
        first = taken[0] - taken[0] % SLOTS if taken else self._first(client)
        return next(slot for slot in range(first, first + SLOTS) if slot not in taken)

    def wrote(self, client: int, slot: int, digest: bytes) -> None:
        """Note that a slot holds a client's newest vector."""
        self._before.append((client, self.versions.rows(client)))
        self.versions.put(client, _CONTENT.pack(slot, digest))

    def settle(self) -> None:
        """Keep what was noted so far: `undo` goes back no further."""
        self._spare += [
            first
            for client, first in self._new.items()
            if not self.versions.rows(client)
        ]
        self._before, self._new = [], {}

    def undo(self, only: int | None = None) -> None:
        """Go back to the vectors at the last `settle`, of one client or of all: what the newer ones belong to was void."""
        for client, rows in reversed(self._before):
            if only in (None, client):
                self.versions.restore(client, rows)
        self._before = [noted for noted in self._before if only not in (None, noted[0])]

    def sync(self) -> dict[str, NDArray[Any]]:
        """Bring the vectors to disk and return what a checkpoint has to hold of them; raises RecordError."""
        try:
            os.fsync(self._file)
        except OSError as error:
            raise self._unwritten(error) from error
        return self.versions.sync() | {
            f"{self.path.stem}.owners": np.array(self._owners)
        }

    def checkpointed(self) -> None:
        """Keep the newest vectors from now on: the checkpoint that names them is on disk."""
        self.versions.checkpointed()
        self.settle()

    def recall(
        self,
        saved: Mapping[str, NDArray[Any]] | None,
        older: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        """Go back to the vectors that a checkpoint names; None: to no vectors at all. older: the one before, still kept."""
        self._before, self._new, self._spare = [], {}, []
        if not self.versions.recall(saved):
            assert saved is not None
            self._adopt(saved, older or saved)
        else:
            self._owners = (
                0 if saved is None else int(saved[f"{self.path.stem}.owners"])
            )

    def _first(self, client: int) -> int:
        """Return the first of the slots that a client is given."""
        if client not in self._new:
            if not self._spare:
                self._spare, self._owners = [SLOTS * self._owners], self._owners + 1
            self._new[client] = self._spare.pop()
        return self._new[client]

    def _adopt(
        self, saved: Mapping[str, NDArray[Any]], older: Mapping[str, NDArray[Any]]
    ) -> None:
        """Go back to the vectors that checkpoints name which hold an array (N,) of everything; all clients have slots there."""
        stem = self.path.stem
        rows: dict[tuple[int, int], bytes] = {}
        cuts = []
        for at, arrays in enumerate((older, saved), 1):
            slots = arrays[f"{stem}.slots"]
            asked = np.flatnonzero(slots != NONE)
            since = arrays.get(
                f"{stem}.contact", np.where(slots == older[f"{stem}.slots"], 1, at)
            )  # rounds, where they are known
            cuts.append(max(at, int(since.max(initial=0))))
            for client in asked.tolist():
                content = _CONTENT.pack(
                    SLOTS * client + int(slots[client]),
                    arrays[f"{stem}.digests"][client].tobytes(),
                )
                rows[client, int(since[client])] = content
        self.versions.adopt(
            ((client, moment, content) for (client, moment), content in rows.items()),
            (cuts[0], cuts[1]),
        )
        self._owners = self.clients

    def _unwritten(self, error: OSError) -> RecordError:
        return RecordError(
            f"cannot write {self.path}: {error.strerror}; --resume goes on from the last checkpoint"
        )


_CONTENT = struct.Struct("<q8s")  # a slot, and the digest of the vector in it


def _slot(content: bytes) -> tuple[int, bytes]:
    slot, digest = _CONTENT.unpack(content)
    return slot, digest
