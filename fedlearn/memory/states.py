"""What Flower ClientApps keep from round to round: one RecordDict per client, on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flwr.app import RecordDict
from numpy.typing import NDArray
from safetensors.numpy import load, save

from fedlearn.memory.versions import Versions
from fedlearn.strategies import remember


class States:
    """A state for each client that has one; an empty one takes no room.

    Raises RecordError as `Versions` does.
    """

    def __init__(self, path: Path) -> None:
        """Take the database's file."""
        self.versions = Versions(path)

    def get(self, client: int) -> RecordDict | None:
        """Return a client's state; None: it never had one that was not empty."""
        row = self.versions.newest(client)
        if row is None:
            return None
        return _decode(row[1])

    def put(self, client: int, state: RecordDict) -> None:
        """Keep a client's state in the place of the one before.

        Raises TypeError for what no checkpoint can hold.
        """
        content = _encode(state)
        row = self.versions.newest(client)
        # Missing and empty are the same state: most clients have neither row nor state.
        before = _EMPTY if row is None else row[1]
        # Most apps keep nothing: an unchanged state costs no row.
        if content != before:
            self.versions.put(client, content)

    def sync(self) -> dict[str, NDArray[Any]]:
        """Bring the states to disk and return what a checkpoint has to hold."""
        return self.versions.sync()

    def checkpointed(self) -> None:
        """Keep the newest states: the checkpoint is on disk."""
        self.versions.checkpointed()

    def recall(
        self,
        saved: Mapping[str, NDArray[Any]] | None,
        older: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        """Go back to a checkpoint's states; None, or one without any: to none."""
        self.versions.recall(saved)

    def close(self) -> None:
        """Close the file."""
        self.versions.close()


def _encode(state: RecordDict) -> bytes:
    arrays: remember.Arrays = {}
    text = json.dumps(remember.save(state, arrays))
    return save(arrays, {"state": text})


def _decode(content: bytes) -> RecordDict:
    # A safetensors file begins with the length of its header, 8 bytes.
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    text = header["__metadata__"]["state"]
    state: RecordDict = remember.load(json.loads(text), load(content))
    return state


# Encoded once, as it is compared with at each answer.
_EMPTY = _encode(RecordDict())
