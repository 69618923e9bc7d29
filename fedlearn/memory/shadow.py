"""`Shadow`: each client's copy of the model on disk, and the difference from it.

Legend: P floats.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlearn.arrays import Layout
from fedlearn.memory.downlink import Published, Saved, Snapshots
from fedlearn.memory.slots import COPIES, NONE, ClientSlots, Delivery
from fedlearn.memory.vectors import ClientVectors
from fedlearn.seeds import derive
from fedlearn.wire import Header

# The name of what a checkpoint holds besides the copies' own entries.
_RENEWED = "copies.renewed"


class Shadow(Snapshots):
    """Sends each client the difference from its own copy; the workers encode."""

    def __init__(
        self,
        layout: Layout,
        codec: str,
        seed: int,
        copies: ClientVectors,
        first_whole: bool = False,
    ) -> None:
        """Take the copies, which the workers share. codec: of differences.

        first_whole: a client's first contact brings the whole model, because the run starts
        far from the model that clients make themselves.
        """
        # Workers are handed the exact model; the codec is that of the differences.
        super().__init__(layout, "raw32", seed)
        self.differences = codec
        self.copies = copies
        self.first_whole = first_whole
        # The last moment whose copies are to be replaced by whole models.
        self._doubt = 0

    def delivery(self, client: int, round: int, kind: str, attempt: int) -> Delivery:
        """Return how a client's difference is encoded."""
        # A copy from before the loss rose may be what is wrong.
        is_doubtful = 0 < self.copies.since(client) <= self._doubt
        slot, _ = self.copies.newest(client)
        is_first = self.first_whole and slot == NONE
        return Delivery(
            codec=self.differences,
            seed=derive(self.seed, f"codec-down-{kind}", round, attempt, client),
            whole=is_doubtful or is_first,
        )

    def received(self, client: int, slots: ClientSlots, header: Header) -> None:
        """Note the slot and digest of a client's new copy."""
        self.copies.wrote(client, slots[COPIES].into, header.digest)

    def start(self, client: int, published: Published) -> NDArray[np.float32]:
        """Return the client's newest copy."""
        slot, _ = self.copies.newest(client)
        # Sent the whole model, as there was no copy to start from.
        if slot == NONE:
            return published.state.floats
        return self.copies.read(client, slot)

    def renew(self, round: int) -> bool:
        """Send the whole model to every client whose copy is of this round or older."""
        self.renewed = round
        # A moment ends here: copies of later contacts are beyond doubt.
        self._doubt = self.copies.versions.turn()
        return True

    def sync(self) -> dict[str, NDArray[Any]]:
        """Return what names the copies on disk, and which of them are in doubt."""
        return self.copies.sync() | {_RENEWED: np.array([self.renewed, self._doubt])}

    def checkpointed(self) -> None:
        """Keep the newest copies."""
        self.copies.checkpointed()

    def recall(self, saved: Saved | None, older: Saved | None = None) -> None:
        """Go back to the copies that a checkpoint names."""
        self.copies.recall(saved, older)
        self.renewed = 0
        self._doubt = 0
        if saved is not None:
            # Older checkpoints hold one number: their moments are rounds.
            numbers = saved[_RENEWED].reshape(-1)
            self.renewed = int(numbers[0])
            self._doubt = int(numbers[-1])

    def close(self) -> None:
        """Close the file of copies."""
        self.copies.close()
