"""What Flower ClientApps keep from round to round: one RecordDict per client, on disk like all that a run remembers of clients."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flwr.app import RecordDict
from numpy.typing import NDArray
from safetensors.numpy import load, save

from fedlearn.memory.versions import Versions
from fedlearn.strategies import remember as memory


class States:
    """A state for each client that has one; an empty one takes no room. Raises RecordError as `Versions` does."""

    def __init__(self, path: Path) -> None:
        """Take the database's file."""
        self.versions = Versions(path)

    def get(self, client: int) -> RecordDict | None:
        """Return a client's state; None: it never had one that was not empty."""
        found = self.versions.newest(client)
        return _decode(found[1]) if found else None

    def put(self, client: int, state: RecordDict) -> None:
        """Keep a client's state in the place of the one before; raises TypeError for what no checkpoint can hold."""
        content, found = _encode(state), self.versions.newest(client)
        if content != (found[1] if found else _EMPTY):
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
        """Go back to the states of a checkpoint; None, or one from before they were here: to none."""
        self.versions.recall(saved)

    def close(self) -> None:
        """Close the file."""
        self.versions.close()


def _encode(state: RecordDict) -> bytes:
    arrays: memory.Arrays = {}
    text = json.dumps(memory.save(state, arrays))
    return save(arrays, {"state": text})


def _decode(content: bytes) -> RecordDict:
    length = int.from_bytes(content[:8], "little")
    text = json.loads(content[8 : 8 + length])["__metadata__"]["state"]
    state: RecordDict = memory.load(json.loads(text), load(content))
    return state


_EMPTY = _encode(RecordDict())
