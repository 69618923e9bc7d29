"""`ClientMemory`: what a run remembers of each client between its rounds, by name.

A named vector (P,) lies with each client that was asked. `COPIES` are what clients hold of
the model, and belong to the downlink: a client has what it was sent, whatever comes of the
round. All others follow the model: where a round is void, so are they. A method with memory
of its own (control variates, personal layers) is one more name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

from fedlearn.memory.downlink import Downlink
from fedlearn.memory.slots import COPIES, ClientSlots, Slots
from fedlearn.memory.states import States
from fedlearn.memory.vectors import ClientVectors

Saved = Mapping[str, NDArray[Any]]


class Remembered(Protocol):
    """One thing that lies outside the checkpoints, and goes back with them."""

    def sync(self) -> dict[str, NDArray[Any]]:
        """Bring it to disk, and return what a checkpoint holds of it. Raises RecordError."""

    def checkpointed(self) -> None:
        """Note that the checkpoint is on disk."""

    def recall(self, saved: Saved | None, older: Saved | None = None) -> None:
        """Go back to a checkpoint, and to the one before it; None: to the beginning."""


class ClientMemory:
    """The downlink, the clients' named vectors, and the states of Flower ClientApps."""

    def __init__(
        self,
        downlink: Downlink,
        vectors: Mapping[str, ClientVectors],
        states: States | None = None,
    ) -> None:
        """Take the parts. vectors: by name; copies, if any, are the downlink's own."""
        self.downlink = downlink
        self.vectors = dict(vectors)
        self.states = states

    @property
    def must_be_synced(self) -> bool:
        """Return whether the next round relies on what the last checkpoint holds."""
        # Slots of an older checkpoint are written again once a newer one is on disk.
        return bool(self.vectors)

    def slots(self, client: int) -> dict[str, Slots]:
        """Return where a client's vectors lie, and where the next ones go."""
        return {name: vectors.slots(client) for name, vectors in self.vectors.items()}

    def keep(
        self, client: int, slots: ClientSlots, digests: Mapping[str, bytes]
    ) -> None:
        """Note which vectors a client's accepted update left: their digests by name."""
        for name, digest in digests.items():
            if name in slots:
                self.vectors[name].wrote(client, slots[name].into, digest)

    def settle(self) -> None:
        """Begin a round: what the rounds before left can no longer be undone."""
        for vectors in self._following():
            vectors.settle()

    def undo(self, client: int | None = None) -> None:
        """Forget what this round's updates left, of one client or of all: they are void."""
        for vectors in self._following():
            vectors.undo(client)

    def parts(self) -> list[Remembered]:
        """Return what has to be synced before a checkpoint, and recalled with it."""
        # Copies are synced by the downlink, which knows what else belongs to them.
        parts: list[Remembered] = [self.downlink, *self._following()]
        if self.states:
            parts.append(self.states)
        return parts

    def close(self) -> None:
        """Close all files."""
        self.downlink.close()
        for vectors in self._following():
            vectors.close()
        if self.states:
            self.states.close()

    def _following(self) -> Iterator[ClientVectors]:
        """Yield the vectors that follow the model: all but the downlink's copies."""
        for name, vectors in self.vectors.items():
            # The downlink settles its copies itself: a copy stays, even if the round is
            # void.
            if name != COPIES:
                yield vectors
