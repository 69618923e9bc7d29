"""The records that nodes hold, as files named by their digests, for differences to them."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

from flwr.app import ArrayRecord

from fedlearn.apps.messages import Part
from fedlearn.system import files

# Records in memory: the one that is held, the one that is sent, and one of another name.
_MOST_HELD = 4


class Copies:
    """A folder of records; any process may read what one has written."""

    def __init__(self, folder: Path) -> None:
        """Take the folder."""
        self._folder = folder
        self._held: OrderedDict[str, Part] = OrderedDict()

    def put(self, part: Part) -> None:
        """Write a record, if it is not there."""
        path = self._path(part.digest)
        if not path.exists():
            files.make_folder(self._folder)
            # A name ends at its first zero byte, which no record's name has.
            files.replace(path, part.name.encode() + b"\0" + part.data)
        self._hold(part)

    def has(self, digest: str) -> bool:
        """Return whether there is a record of a digest."""
        return digest in self._held or self._path(digest).exists()

    def data(self, digest: str) -> bytes:
        """Return a record's file; `add` takes it elsewhere. Raises OSError."""
        return self._path(digest).read_bytes()

    def get(self, digest: str) -> Part:
        """Return a record; raises OSError where there is none."""
        if digest not in self._held:
            name, _, data = self._path(digest).read_bytes().partition(b"\0")
            self._hold(Part(name.decode(), data, True))
        self._held.move_to_end(digest)
        return self._held[digest]

    def arrays(self, digest: str) -> ArrayRecord:
        """Return a record's arrays; nobody may change them."""
        return self.get(digest).arrays

    def sweep(self, needed: set[str]) -> None:
        """Remove the records that no node holds."""
        # Nothing was written: no codec travels down.
        if not self._folder.is_dir():
            return
        for path in self._folder.iterdir():
            # Those of earlier rounds, and of runs that were killed.
            if path.name not in needed:
                path.unlink(missing_ok=True)

    # Both ends look the same record up for each node of a round.
    def _hold(self, part: Part) -> None:
        self._held[part.digest] = part
        while len(self._held) > _MOST_HELD:
            self._held.popitem(last=False)

    def _path(self, digest: str) -> Path:
        return self._folder / digest
