"""`Cast`: one model that everybody follows, moved by differences that everybody can fetch.

Legend: N clients, P floats.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlearn.arrays import Layout, State
from fedlearn.errors import PayloadError
from fedlearn.memory.downlink import Published, Saved, Snapshots
from fedlearn.memory.slots import ClientSlots, contracts
from fedlearn.memory.versions import Versions
from fedlearn.seeds import derive
from fedlearn.system import files
from fedlearn.wire import Header, digest, encode_difference, encode_model

# How many of the differences a client has, as its version holds it.
_COUNT = struct.Struct("<q")

# Bytes of one digest.
_DIGEST = 8


class Cast(Snapshots):
    """Sends everybody the same series of differences; a client fetches those it missed."""

    def __init__(
        self,
        layout: Layout,
        codec: str,
        seed: int,
        initial: NDArray[np.float32],
        versions: Versions,
        log: Path | None = None,
        first_whole: bool = False,
    ) -> None:
        """Take the first model's floats (P,), which every client can make itself.

        codec: of differences. versions: remembers how far each client is in the series.
        log: a folder for the payloads, where there are agents to send them to. first_whole:
        the series begins with a whole model, because the run starts far from the first one.
        """
        # Whole models travel as float32; the codec is for differences alone.
        super().__init__(layout, "raw32", seed)
        self.log = log
        self.differences = codec
        self.initial = initial
        self.versions = versions
        # The model that everybody follows.
        self.floats = initial
        # Digests of that model, before each of the differences and after the last.
        self.names = [digest(initial)]
        # Bytes of each of the differences sent so far.
        self.sizes: list[int] = []
        # The place of the newest payload that was a whole model, and a whole model's bytes.
        self.last_whole = 0
        self.whole_bytes = 0
        # Whether a whole model is sent next.
        self.whole_next = first_whole

    def publish(self, round: int, place: int, state: State, version: int) -> Published:
        """Move the model that everybody follows towards this one, and return it."""
        # In doubt (see `renew`) everybody gets the whole model, near or not.
        nearer = None
        if not self.whole_next:
            nearer = self._nearer(round, place, state, version)
        # All follow what the difference leads to, and not what it aimed at.
        target = state if nearer is None else nearer[1]
        # Workers are handed a whole model in any case; see `downlink`'s module.
        whole, header, arrived = encode_model(self.layout, target, version, "raw32", 0)
        fallback = nearer is None and not self.whole_next
        payload = whole if nearer is None else nearer[0]
        if nearer is None:
            self.last_whole = len(self.sizes)
            self.whole_next = False
        self._append(payload, header)
        self.whole_bytes = len(whole)
        self.floats = arrived.floats
        return Published(whole, header, arrived, fallback)

    def _append(self, payload: bytes, header: Header) -> None:
        """Add a payload to the series; header: of the model that it leads to."""
        if self.log:
            # Kept for agents that were away; a simulation counts their bytes alone.
            files.make_folder(self.log)
            # Before the series names it: a killed run finds a file too many, and none
            # too few.
            path = self._file(len(self.sizes))
            with open(path, "wb", opener=files.private) as file:
                file.write(payload)
        self.sizes.append(len(payload))
        self.names.append(header.digest)

    def _file(self, place: int) -> Path:
        assert self.log is not None
        return self.log / f"{place:08d}"

    def _nearer(
        self, round: int, place: int, state: State, version: int
    ) -> tuple[bytes, State] | None:
        """Return a difference that brings everybody nearer to the model, and where it leads.

        None: the codec has none that closes enough. The seed is the round's: a repeated
        round goes on in the same rotation, which comes nearer than another would.
        """
        # Integers are always sent exactly, so the base has the model's own.
        base = State(self.floats, state.integers)
        try:
            data, _, arrived = encode_difference(
                self.layout,
                base,
                digest(base.floats),
                state,
                version,
                self.differences,
                derive(self.seed, "codec-down", round, place),
                self.floats - self.initial,
            )
        except PayloadError:
            # The codec cannot carry these values; the whole model carries all.
            return None
        if contracts(self.layout, self.floats, arrived.floats, state.floats):
            return data, arrived
        return None

    def download(self, client: int) -> int | None:
        """Return the bytes of what a client missed, or of the whole model if those are fewer."""
        # What came before a whole model is not needed to arrive at it.
        first = max(self._count(client), self.last_whole)
        # A client away for long takes the whole model, where that is fewer bytes.
        return min(sum(self.sizes[first:]), self.whole_bytes)

    def series(self, client: int) -> tuple[bytes, tuple[bytes, ...]] | None:
        """Return where a client stands in the series and what it missed.

        None: it is sent the whole model.
        """
        first = self._count(client)
        if self.log is None or first < self.last_whole:
            return None
        if sum(self.sizes[first:]) > self.whole_bytes:
            return None
        places = range(first, len(self.sizes))
        return self.names[first], tuple(self._file(p).read_bytes() for p in places)

    def received(self, client: int, slots: ClientSlots, header: Header) -> None:
        """Note that a client has the whole series so far."""
        self.versions.put(client, _COUNT.pack(len(self.sizes)))

    def renew(self, round: int) -> bool:
        """Send everybody the whole model next."""
        self.whole_next = True
        self.renewed = round
        return True

    def sync(self) -> dict[str, NDArray[Any]]:
        """Return the followed model and its series; what each client has is on disk."""
        # One array, as a checkpoint holds arrays; see `recall` for its order.
        state = np.array(
            [self.last_whole, self.whole_next, self.whole_bytes, self.renewed]
        )
        return {
            "cast.floats": self.floats,
            "cast.sizes": np.array(self.sizes, np.int64),
            "cast.names": np.frombuffer(b"".join(self.names), np.uint8),
            "cast.state": state,
            **self.versions.sync(),
        }

    def checkpointed(self) -> None:
        """Keep what each client has now."""
        self.versions.checkpointed()

    def recall(self, saved: Saved | None, older: Saved | None = None) -> None:
        """Go back to what a checkpoint holds."""
        # A checkpoint of an earlier version has arrays instead of versions.
        if not self.versions.recall(saved):
            assert saved is not None
            self._adopt(saved, older or saved)
        if saved is None:
            # A run begins: nothing was sent.
            return
        self.floats = saved["cast.floats"]
        self.sizes = saved["cast.sizes"].tolist()
        last_whole, whole_next, whole_bytes, renewed = saved["cast.state"].tolist()
        self.last_whole = int(last_whole)
        self.whole_next = bool(whole_next)
        self.whole_bytes = int(whole_bytes)
        self.renewed = int(renewed)
        names = saved["cast.names"].tobytes()
        starts = range(0, len(names), _DIGEST)
        self.names = [names[start : start + _DIGEST] for start in starts]

    def close(self) -> None:
        """Close what remembers."""
        self.versions.close()

    def _count(self, client: int) -> int:
        """Return how many of the differences a client has."""
        row = self.versions.newest(client)
        if row is None:
            return 0
        return int(_COUNT.unpack(row[1])[0])

    def _adopt(self, saved: Saved, older: Saved) -> None:
        """Take over checkpoints that hold an array (N,) of what each client has."""
        rows: dict[tuple[int, int], bytes] = {}
        for moment, arrays in enumerate((older, saved), 1):
            # The name that earlier versions gave it.
            counts = arrays["cast.seen"]
            # 0: never asked, so nothing has to be remembered.
            for client in np.flatnonzero(counts).tolist():
                rows[client, moment] = _COUNT.pack(int(counts[client]))
        entries = ((client, moment, row) for (client, moment), row in rows.items())
        self.versions.adopt(entries, (1, 2))
