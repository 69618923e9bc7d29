"""What the nodes' apps keep between messages (``context.state``): a file for each node.

A node's state is a file named by the message that left it. The one before is removed once
the reply is on disk, so a run that is killed goes on from the state that belongs to its
last reply. Memory holds one number for each node that has a state.
"""

from __future__ import annotations

from pathlib import Path


class NodeStates:
    """The states of a run's nodes."""

    def __init__(self, folder: Path) -> None:
        """Take the folder."""
        self._folder = folder
        # Node's partition → its message that left the newest state.
        self._turns: dict[int, int] = {}

    def path(self, partition: int) -> Path | None:
        """Return the file of a node's state; None: its state is empty."""
        turn = self._turns.get(partition)
        return None if turn is None else self.next_path(partition, turn)

    def next_path(self, partition: int, turn: int) -> Path:
        """Return where a message's state goes."""
        # A folder for a thousand nodes: one for a million would be slow.
        return self._folder / str(partition // 1000) / f"{partition}-{turn}"

    def settle(self, partition: int, turn: int) -> None:
        """Take a message's state for the node's: its reply is on disk."""
        before = self.path(partition)
        self._turns[partition] = turn
        # It may be gone: a run that goes on settles what it had settled.
        if before is not None:
            before.unlink(missing_ok=True)
