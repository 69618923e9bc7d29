"""What the nodes' apps keep between messages (``context.state``): a file for each node.

A node's state is a file named by the turn that left it. The one before is removed once the
reply is on disk, so a run that is killed goes on from the state that belongs to its last
reply. Memory holds one number for each node that has a state.

With agents the files lie on their disks, and only the numbers here.
"""

from __future__ import annotations

import re
from pathlib import Path


def state_path(folder: Path, partition: int, turn: int) -> Path:
    """Return the file of what a node's app kept after one of its turns."""
    # A folder for a thousand nodes: one for a million would be slow.
    return folder / str(partition // 1000) / f"{partition}-{turn}"


def sweep_states(folder: Path, partition: int, turn: int) -> None:
    """Remove a node's states but for that of one turn, and parts of files; raises OSError.

    Only who alone writes in the folder may call it.
    """
    home = state_path(folder, partition, turn).parent
    # An app that keeps nothing has no folder.
    if not home.is_dir():
        return
    name = re.compile(rf"\.?{partition}-[0-9]+(\.part)?")
    for path in home.iterdir():
        if name.fullmatch(path.name) and path.name != f"{partition}-{turn}":
            path.unlink(missing_ok=True)


class NodeStates:
    """The states of a run's nodes."""

    def __init__(self, folder: Path) -> None:
        """Take the folder."""
        self._folder = folder
        # Node's partition → its turn that left the newest state.
        self._turns: dict[int, int] = {}

    def turn(self, partition: int) -> int:
        """Return the turn that left a node's state; 0: its state is empty."""
        return self._turns.get(partition, 0)

    def settle(self, partition: int, turn: int) -> None:
        """Take a turn's state for the node's: its reply is on disk."""
        before = self.turn(partition)
        self._turns[partition] = turn
        # It may be gone: a run that goes on settles what it had settled.
        if before:
            state_path(self._folder, partition, before).unlink(missing_ok=True)
