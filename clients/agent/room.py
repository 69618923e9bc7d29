"""How much of the coordinator's work a device holds at a time."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from fedlearn.clients.agent.pieces import Piece

# Most bytes of all that a device holds, unless its owner sets another limit.
PAYLOAD_BYTES = 1 << 30

# Most payloads of a task.
PARTS = 10_000

# Most pieces of work at a time: each takes memory beside its bytes.
PIECES = 1000


@dataclass(frozen=True)
class WorkRoom:
    """The owner's limit, over what comes, what waits and the answers that are kept.

    In sum, as a coordinator may send any number of tasks.
    """

    most_bytes: int = PAYLOAD_BYTES

    def objection(
        self, pieces: Collection[Piece], total: int, parts: int
    ) -> str | None:
        """Return why a task's payloads are not taken beside other work; None: they are.

        total: their bytes, parts: their number. Both come from the coordinator, so they are
        checked before memory is taken.
        """
        if len(pieces) >= PIECES:
            return f"this device has {len(pieces)} pieces of work already"
        held_bytes = sum(piece.held_bytes for piece in pieces)
        if held_bytes + total <= self.most_bytes and parts <= PARTS:
            return None
        beside = f", beside {held_bytes} of other work" if held_bytes else ""
        return (
            f"its payloads have {total} bytes in {parts} parts{beside}; "
            f"the owner of this device allows {self.most_bytes}"
        )

    def takes(self, pieces: Collection[Piece], answer: bytes) -> bool:
        """Tell whether an answer may be kept beside others; a single one always may."""
        answer_bytes = sum(len(piece.answer) for piece in pieces)
        return not answer_bytes or answer_bytes + len(answer) <= self.most_bytes
