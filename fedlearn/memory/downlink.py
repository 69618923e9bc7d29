"""How a model reaches the clients: whole, or as the difference from what they hold.

`Snapshots` send every client the whole model. `Shadow` (its own file) keeps each client's
copy and sends the difference from it: fewest bytes, N copies on disk. `Cast` (its own file)
sends everybody one series of differences, of which a client that was away fetches those it
missed: one copy for all, and ten times the bytes at 10 % participation.

In a simulation the workers are handed a whole model; what a client is *sent* is encoded,
counted and decoded apart.

Legend: N clients, P floats.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedlearn.arrays import Layout, State
from fedlearn.memory.slots import ClientSlots, Delivery
from fedlearn.seeds import derive
from fedlearn.wire import Header, encode_model

Saved = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Published:
    """One model as the workers are handed it: its payload, and what they decode from it.

    fallback: a difference would have closed too little, and all are sent the whole model.
    """

    payload: bytes
    header: Header
    state: State
    fallback: bool = False


class Downlink(Protocol):
    """One of the three ways.

    renewed: the round of the last `renew`; 0: there was none.
    """

    renewed: int

    def publish(self, round: int, place: int, state: State, version: int) -> Published:
        """Return a model of a round; ``place`` counts the different models of that round."""

    def delivery(
        self, client: int, round: int, kind: str, attempt: int
    ) -> Delivery | None:
        """Return how a client is sent its own difference; None: the published payload."""

    def download(self, client: int) -> int | None:
        """Return the bytes that a client takes; None: the length of what it is sent."""

    def series(self, client: int) -> tuple[bytes, tuple[bytes, ...]] | None:
        """Return the digest of a client's model and the payloads it missed since.

        None: it is sent what `delivery` or the published payload says.
        """

    def received(self, client: int, slots: ClientSlots, header: Header) -> None:
        """Note that a client holds the model of a header."""

    def start(self, client: int, published: Published) -> NDArray[np.float32]:
        """Return the floats (P,) of the model that a client started from."""

    def renew(self, round: int) -> bool:
        """Send each client the whole model once, at its first contact after a round.

        Returns False where every client is sent the whole model anyway.
        """

    def sync(self) -> dict[str, NDArray[Any]]:
        """Bring to disk what lies outside a checkpoint, and return what one has to hold.

        Raises RecordError.
        """

    def checkpointed(self) -> None:
        """Note that the checkpoint is on disk."""

    def recall(self, saved: Saved | None, older: Saved | None = None) -> None:
        """Go back to what a checkpoint holds; None: to the beginning.

        older: the checkpoint before it, which stays sound too.
        """

    def close(self) -> None:
        """Release what is held."""


class Snapshots:
    """Whole models, encoded once for everybody."""

    renewed = 0

    def __init__(self, layout: Layout, codec: str, seed: int) -> None:
        """Take the codec of whole models."""
        self.layout = layout
        self.codec = codec
        self.seed = seed

    def publish(self, round: int, place: int, state: State, version: int) -> Published:
        """Return the encoded model."""
        # By place: two models of one round must not share their random numbers.
        seed = derive(self.seed, "codec-down", round, place)
        encoded = encode_model(self.layout, state, version, self.codec, seed)
        return Published(*encoded)

    def delivery(
        self, client: int, round: int, kind: str, attempt: int
    ) -> Delivery | None:
        """Return None."""
        return None

    def download(self, client: int) -> int | None:
        """Return None."""
        return None

    def series(self, client: int) -> tuple[bytes, tuple[bytes, ...]] | None:
        """Return None."""
        return None

    def received(self, client: int, slots: ClientSlots, header: Header) -> None:
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
