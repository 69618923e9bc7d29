"""One float vector per client, in a file that every process reads.

A client has four slots. A new vector goes where neither of the last two checkpoints looks,
nor its predecessor lies. So a run that is killed at any moment still has, for every client,
the vector of its last whole checkpoint, and a round that is void can be undone. A client
gets its slots when it is first asked: one that never is takes no room, here or in memory.
Vectors are read and written by plain calls, not by a memory map: a full disk is an error
here, and would be a killed process there.

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

from fedlearn.errors import RecordError, UnwrittenError
from fedlearn.memory.slots import NONE, Slots
from fedlearn.memory.versions import Row, Versions
from fedlearn.system import files

# The last two checkpoints name one slot each; the newest vector has one, and its
# successor needs another.
SLOTS = 4

# What a version holds: a slot, and the digest of the vector in it.
_CONTENT = struct.Struct("<q8s")


class ClientVectors:
    """Slots of P float32 each, in one file that the workers share.

    It is opened before the workers are forked. Which slot is whose, the parent alone
    knows.
    """

    def __init__(self, path: Path, clients: int, size: int) -> None:
        """Open the file, made if need be; its stem names the vectors in checkpoints.

        size: P. Raises RecordError.
        """
        self.path = path
        self.clients = clients
        self.size = size
        try:
            files.make_folder(path.parent)
            # Not truncated: a resumed run finds its vectors there.
            self._file = files.private(path, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise RecordError(
                f"cannot keep clients' vectors in {path}: {error.strerror}"
            ) from error
        # Of each client's newest vector: its slot and its digest.
        self.versions = Versions(path.with_suffix(".sqlite"))
        # Clients that have slots.
        self._owners = 0
        # The first slot of each client that got its slots since the last `settle`.
        self._first_slots: dict[int, int] = {}
        # First slots that were given out and never written to.
        self._spare: list[int] = []
        # What `undo` puts back: the rows of each client noted since `settle`.
        self._before: list[tuple[int, Sequence[Row]]] = []

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)
        self.versions.close()

    def slots(self, client: int) -> Slots:
        """Return where a client's vector lies, its digest, and where the next one goes."""
        slot, digest = self.newest(client)
        return Slots(slot, digest, self.free(client))

    def newest(self, client: int) -> tuple[int, bytes]:
        """Return the slot of a client's newest vector, and the digest that shows damage.

        A client without a vector has `NONE` and zeros.
        """
        row = self.versions.newest(client)
        if row is None:
            # Eight zero bytes name no vector.
            return NONE, bytes(8)
        return _slot_and_digest(row[1])

    def since(self, client: int) -> int:
        """Return the moment of a client's newest vector; 0: it has none."""
        row = self.versions.newest(client)
        if row is None:
            return 0
        return row[0]

    def read(self, client: int, slot: int) -> NDArray[np.float32]:
        """Return a copy of a vector (P,); what a damaged file lacks reads as 0.

        Raises RecordError.
        """
        # Zeros: the digest then shows that the vector is damaged.
        vector = np.zeros(self.size, np.float32)
        room = vector.view(np.uint8).data
        offset = self._offset(slot)
        try:
            # The kernel may read less than asked, and nothing at the file's end.
            while len(room):
                count = os.preadv(self._file, [room], offset)
                if not count:
                    break
                room = room[count:]
                offset += count
        except OSError as error:
            raise UnwrittenError(
                f"cannot read client {client}'s vector in {self.path}: {error.strerror}"
            ) from error
        return vector

    def write(self, client: int, slot: int, vector: NDArray[np.float32]) -> None:
        """Write a vector (P,). Raises RecordError when there is no room."""
        data = np.ascontiguousarray(vector).view(np.uint8).data
        offset = self._offset(slot)
        try:
            # A full disk may take a part first, and fail only then.
            while len(data):
                count = os.pwrite(self._file, data, offset)
                data = data[count:]
                offset += count
        except OSError as error:
            raise self._unwritten(error) from error

    def free(self, client: int) -> int:
        """Return the slot that a client's next vector may be written to."""
        rows = self.versions.rows(client)
        # Three at most: two checkpoints and now. One of four is always free.
        used = [_slot_and_digest(content)[0] for _, content in rows]
        if used:
            first = used[0] - used[0] % SLOTS
        else:
            first = self._first_slot(client)
        return min(set(range(first, first + SLOTS)) - set(used))

    def wrote(self, client: int, slot: int, digest: bytes) -> None:
        """Note that a slot holds a client's newest vector."""
        # What `undo` needs, should this round be void.
        self._before.append((client, self.versions.rows(client)))
        self.versions.put(client, _CONTENT.pack(slot, digest))

    def settle(self) -> None:
        """Keep what was noted so far: `undo` goes back no further."""
        for client, first in self._first_slots.items():
            # It was asked and answered nothing; its slots serve the next newcomer.
            if not self.versions.rows(client):
                self._spare.append(first)
        self._before = []
        self._first_slots = {}

    def undo(self, only: int | None = None) -> None:
        """Go back to the vectors at the last `settle`, of one client or of all.

        What the newer ones belong to was void.
        """
        later: list[tuple[int, Sequence[Row]]] = []
        # Newest first: a client noted twice ends with its oldest rows.
        for client, rows in reversed(self._before):
            if only in (None, client):
                self.versions.restore(client, rows)
            else:
                later.append((client, rows))
        self._before = later[::-1]

    def sync(self) -> dict[str, NDArray[Any]]:
        """Bring the vectors to disk and return what a checkpoint has to hold of them.

        Raises RecordError.
        """
        try:
            # The vectors before the database that names them, and both before the checkpoint.
            os.fsync(self._file)
        except OSError as error:
            raise self._unwritten(error) from error
        return self.versions.sync() | {self._owners_name: np.array(self._owners)}

    def checkpointed(self) -> None:
        """Keep the newest vectors from now on: the checkpoint that names them is on disk."""
        self.versions.checkpointed()
        self.settle()

    def recall(
        self,
        saved: Mapping[str, NDArray[Any]] | None,
        older: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        """Go back to the vectors that a checkpoint names; None: to no vectors at all.

        older: the checkpoint before it, whose vectors stay too. Raises RecordError.
        """
        self._before = []
        self._first_slots = {}
        self._spare = []
        if not self.versions.recall(saved):
            assert saved is not None
            self._adopt(saved, older or saved)
        elif saved is None:
            self._owners = 0
        else:
            self._owners = int(saved[self._owners_name])

    @property
    def _owners_name(self) -> str:
        return f"{self.path.stem}.owners"

    def _offset(self, slot: int) -> int:
        """Return where a slot begins in the file, in bytes."""
        return 4 * self.size * slot

    def _first_slot(self, client: int) -> int:
        """Return the first of the slots that a client is given."""
        if client not in self._first_slots:
            if not self._spare:
                # Slots are handed out in the order of first use, so the file has no holes.
                self._spare = [SLOTS * self._owners]
                self._owners += 1
            self._first_slots[client] = self._spare.pop()
        return self._first_slots[client]

    def _adopt(
        self, saved: Mapping[str, NDArray[Any]], older: Mapping[str, NDArray[Any]]
    ) -> None:
        """Take over checkpoints that hold arrays (N,) of everything.

        All clients have slots there, in the order of their numbers.
        """
        stem = self.path.stem
        rows: dict[tuple[int, int], bytes] = {}
        cuts = []
        for place, arrays in enumerate((older, saved), 1):
            slots = arrays[f"{stem}.slots"]
            # Rounds, where they are known; otherwise which of the two checkpoints.
            unknown = np.where(slots == older[f"{stem}.slots"], 1, place)
            moments = arrays.get(f"{stem}.contact", unknown)
            cuts.append(max(place, int(moments.max(initial=0))))
            for client in np.flatnonzero(slots != NONE).tolist():
                slot = SLOTS * client + int(slots[client])
                digest = arrays[f"{stem}.digests"][client].tobytes()
                rows[client, int(moments[client])] = _CONTENT.pack(slot, digest)
        entries = ((client, moment, row) for (client, moment), row in rows.items())
        self.versions.adopt(entries, (cuts[0], cuts[1]))
        self._owners = self.clients

    def _unwritten(self, error: OSError) -> RecordError:
        return UnwrittenError(f"cannot write {self.path}: {error.strerror}")


def _slot_and_digest(content: bytes) -> tuple[int, bytes]:
    slot, digest = _CONTENT.unpack(content)
    return slot, digest
