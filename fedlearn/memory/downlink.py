"""How a model reaches the clients: whole, or as the difference from what they hold.

`Snapshots` send every client the whole model. `Shadow` keeps each client's copy and sends the difference from it: fewest
bytes, N copies on disk. `Cast` sends everybody one series of differences, of which a client that was away fetches those
that it missed: one copy for all, and ten times the bytes at 10 % participation.

In a simulation the workers are handed a whole model; what a client is *sent* is encoded, counted and decoded apart.

Legend: N clients, P floats.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedlearn.arrays import Layout, State
from fedlearn.engine.runner import Link, contracts
from fedlearn.errors import PayloadError
from fedlearn.memory.vectors import NONE, ClientVectors
from fedlearn.memory.versions import Versions
from fedlearn.seeds import derive
from fedlearn.wire import Header, digest, encode_difference, encode_model

Saved = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Published:
    """One model as the workers are handed it: its payload, and the header and state that they decode from it."""

    payload: bytes
    header: Header
    state: State
    fallback: bool = False  # a difference would have done no good, and everybody is sent the whole model


class Downlink(Protocol):
    """One of the three ways."""

    def publish(self, round: int, place: int, state: State, version: int) -> Published:
        """Return a model of a round; ``place`` counts the different models of that round."""

    def link(self, client: int, round: int, kind: str, attempt: int) -> Link | None:
        """Return how a client is sent its own difference; None: it takes the published payload."""

    def download(self, client: int) -> int | None:
        """Return the bytes that a client takes; None: those of what it is sent by `link`, or of the published payload."""

    def series(self, client: int) -> tuple[bytes, tuple[bytes, ...]] | None:
        """Return the digest that a client's model has, and the payloads that it missed since; None: as in `download`."""

    def received(
        self, client: int, round: int, link: Link | None, header: Header
    ) -> None:
        """Note that a client holds the model of a header."""

    def start(self, client: int, published: Published) -> NDArray[np.float32]:
        """Return the floats (P,) of the model that a client started from."""

    renewed: int
    """The round of the last `renew`; 0: there was none."""

    def renew(self, round: int) -> bool:
        """Have each client sent the whole model once, at its first contact after a round; False: it always is."""

    def sync(self) -> dict[str, NDArray[Any]]:
        """Bring to disk what lies outside a checkpoint, and return what it has to hold; raises RecordError."""

    def checkpointed(self) -> None:
        """Note that the checkpoint is on disk."""

    def recall(self, saved: Saved | None, older: Saved | None = None) -> None:
        """Go back to what a checkpoint holds; None: to the beginning. older: the checkpoint before it, which stays sound too."""

    def close(self) -> None:
        """Release what is held."""


class Snapshots:
    """Whole models, encoded once for everybody."""

    renewed = 0

    def __init__(self, layout: Layout, codec: str, seed: int) -> None:
        """Take the codec of whole models."""
        self.layout, self.codec, self.seed = layout, codec, seed

    def publish(self, round: int, place: int, state: State, version: int) -> Published:
        """Return the encoded model."""
        return Published(
            *encode_model(
                self.layout,
                state,
                version,
                self.codec,
                derive(self.seed, "codec-down", round, place),
            )
        )

    def link(self, client: int, round: int, kind: str, attempt: int) -> Link | None:
        """Return None."""
        return None

    def download(self, client: int) -> int | None:
        """Return None."""
        return None

    def series(self, client: int) -> tuple[bytes, tuple[bytes, ...]] | None:
        """Return None."""
        return None

    def received(
        self, client: int, round: int, link: Link | None, header: Header
    ) -> None:
        """Do nothing: nobody keeps a model."""

    def start(self, client: int, published: Published) -> NDArray[np.float32]:
        """Return the published model's floats."""
        return published.state.floats

    def renew(self, round: int) -> bool:
        """Return False: every model is whole."""
        return False

    def sync(self) -> dict[str, NDArray[Any]]:
        """Return nothing."""
        return {}

    def checkpointed(self) -> None:
        """Do nothing."""

    def recall(self, saved: Saved | None, older: Saved | None = None) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class Shadow(Snapshots):
    """Each client's copy, kept on disk, and the difference from it; the workers encode."""

    def __init__(
        self, layout: Layout, codec: str, seed: int, copies: ClientVectors
    ) -> None:
        """Take the copies, which the workers share; codec: of differences."""
        super().__init__(layout, "raw32", seed)
        self.differences, self.copies = codec, copies
        self._doubt = (
            0  # the last moment whose copies are to be replaced by whole models
        )

    def link(self, client: int, round: int, kind: str, attempt: int) -> Link:
        """Return the slots of a client's copies, and how its difference is encoded."""
        slot, name = self.copies.newest(client)
        return Link(
            slot=slot,
            digest=name,
            into=self.copies.free(client),
            codec=self.differences,
            seed=derive(self.seed, f"codec-down-{kind}", round, attempt, client),
            whole=0 < self.copies.since(client) <= self._doubt,
        )

    def received(
        self, client: int, round: int, link: Link | None, header: Header
    ) -> None:
        """Note the slot and digest of a client's new copy."""
        assert link is not None
        self.copies.wrote(client, link.into, header.digest)

    def start(self, client: int, published: Published) -> NDArray[np.float32]:
        """Return the client's newest copy."""
        slot, _ = self.copies.newest(client)
        return (
            published.state.floats if slot == NONE else self.copies.read(client, slot)
        )

    def renew(self, round: int) -> bool:
        """Send the whole model to every client whose copy is of this round or older."""
        self.renewed, self._doubt = round, self.copies.versions.turn()
        return True

    def sync(self) -> dict[str, NDArray[Any]]:
        """Return what names the copies, which are on disk, and which of them are in doubt."""
        return self.copies.sync() | {
            "copies.renewed": np.array([self.renewed, self._doubt])
        }

    def checkpointed(self) -> None:
        """Keep the newest copies."""
        self.copies.checkpointed()

    def recall(self, saved: Saved | None, older: Saved | None = None) -> None:
        """Go back to the copies that a checkpoint names."""
        self.copies.recall(saved, older)
        renewed = (
            np.zeros(1, np.int64)
            if saved is None
            else saved["copies.renewed"].reshape(-1)
        )
        self.renewed, self._doubt = (
            int(renewed[0]),
            int(renewed[-1]),
        )  # older checkpoints have one: their moments are rounds

    def close(self) -> None:
        """Close the file of copies."""
        self.copies.close()


class Cast(Snapshots):
    """One model that everybody holds some version of, moved by differences that everybody can fetch."""

    def __init__(
        self,
        layout: Layout,
        codec: str,
        seed: int,
        initial: NDArray[np.float32],
        versions: Versions,
        log: Path | None = None,
    ) -> None:
        """Take the first model's floats (P,), which every client can make itself; codec: of differences.

        versions: remembers how far each client is in the series. log: a folder for the payloads themselves, where there are
        agents to send them to.
        """
        super().__init__(layout, "raw32", seed)
        self.log = log
        self.names = [
            digest(initial)
        ]  # of the model before each of the differences, and after the last
        self.differences, self.initial, self.versions = codec, initial, versions
        self.floats = initial  # the model that everybody follows
        self.sizes: list[int] = []  # of the differences sent so far
        self.last_whole = 0  # the newest that was a whole model
        self.whole = 0  # bytes of a whole model
        self.again = False  # send a whole model next

    def publish(self, round: int, place: int, state: State, version: int) -> Published:
        """Move the model that everybody follows towards this one, and return it."""
        nearer = None if self.again else self._nearer(round, place, state, version)
        whole, header, arrived = encode_model(
            self.layout, nearer[1] if nearer else state, version, "raw32", 0
        )
        fallback = nearer is None and not self.again
        if nearer is None:
            self.last_whole, self.again = len(self.sizes), False
        if self.log:
            self.log.mkdir(parents=True, exist_ok=True)
            (self.log / f"{len(self.sizes):08d}").write_bytes(
                nearer[0] if nearer else whole
            )
        self.sizes.append(len(nearer[0]) if nearer else len(whole))
        self.names.append(header.digest)
        self.whole, self.floats = len(whole), arrived.floats
        return Published(whole, header, arrived, fallback)

    def _nearer(
        self, round: int, place: int, state: State, version: int
    ) -> tuple[bytes, State] | None:
        """Return a difference that brings everybody nearer to the model, and where it leads; None: there is none.

        Its seed is the round's: a repeated round goes on in the same rotation, which brings it nearer than another would.
        """
        seed, base = (
            derive(self.seed, "codec-down", round, place),
            State(self.floats, state.integers),
        )
        moved = self.floats - self.initial
        try:
            data, _, arrived = encode_difference(
                self.layout,
                base,
                digest(base.floats),
                state,
                version,
                self.differences,
                seed,
                moved,
            )
        except (
            PayloadError
        ):  # values that the codec cannot carry; the whole model carries all
            return None
        return (
            (data, arrived)
            if contracts(self.layout, self.floats, arrived.floats, state.floats)
            else None
        )

    def download(self, client: int) -> int | None:
        """Return the bytes of the differences that a client missed, or of the whole model where those are fewer."""
        missed = sum(self.sizes[max(self._seen(client), self.last_whole) :])
        return min(missed, self.whole)

    def series(self, client: int) -> tuple[bytes, tuple[bytes, ...]] | None:
        """Return where a client stands in the series and what it missed; None: it is sent the whole model."""
        first = self._seen(client)
        if (
            self.log is None
            or first < self.last_whole
            or sum(self.sizes[first:]) > self.whole
        ):
            return None
        missed = tuple(
            (self.log / f"{place:08d}").read_bytes()
            for place in range(first, len(self.sizes))
        )
        return self.names[first], missed

    def received(
        self, client: int, round: int, link: Link | None, header: Header
    ) -> None:
        """Note that a client has the whole series so far."""
        self.versions.put(client, _COUNT.pack(len(self.sizes)))

    def renew(self, round: int) -> bool:
        """Send everybody the whole model next."""
        self.again, self.renewed = True, round
        return True

    def sync(self) -> dict[str, NDArray[Any]]:
        """Return the followed model and the sizes of the differences; which of them each client has is on disk."""
        state = np.array([self.last_whole, self.again, self.whole, self.renewed])
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
        if not self.versions.recall(saved):
            assert saved is not None
            self._adopt(saved, older or saved)
        if saved is None:  # a run begins: nothing was sent
            return
        self.floats, self.sizes = saved["cast.floats"], saved["cast.sizes"].tolist()
        self.last_whole, again, self.whole, self.renewed = (
            int(n) for n in saved["cast.state"]
        )
        self.again, names = bool(again), saved["cast.names"].tobytes()
        self.names = [names[at : at + 8] for at in range(0, len(names), 8)]

    def close(self) -> None:
        """Close what remembers."""
        self.versions.close()

    def _seen(self, client: int) -> int:
        """Return how many of the differences a client has."""
        found = self.versions.newest(client)
        return int(_COUNT.unpack(found[1])[0]) if found else 0

    def _adopt(self, saved: Saved, older: Saved) -> None:
        """Go back to checkpoints that hold an array (N,) of what each client has."""
        rows = {}
        for moment, arrays in enumerate((older, saved), 1):
            seen = arrays["cast.seen"]
            for client in np.flatnonzero(seen).tolist():
                rows[client, moment] = _COUNT.pack(int(seen[client]))
        self.versions.adopt(
            ((client, moment, content) for (client, moment), content in rows.items()),
            (1, 2),
        )


_COUNT = struct.Struct("<q")
