"""What one client is to do, and what came of it: plain values that every engine passes on.

Legend: P floats, Q integers of the model's layout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlearn.arrays import State
from fedlearn.errors import reason_of
from fedlearn.memory.slots import ClientSlots, Delivery
from fedlearn.plan import Plan, is_training
from fedlearn.wire import Bytes, Header


@dataclass(frozen=True)
class Held:
    """The model a client holds after a download: header, state, and the bytes it took."""

    header: Header
    state: State
    bytes_down: int
    # The whole model was sent, because a difference would have closed too little.
    fallback: bool = False
    # What the disk held of this client was not what had been written.
    damaged: bool = False
    # The payload, where the client is sent one of its own.
    payload: Bytes = b""


@dataclass(frozen=True)
class Group:
    """Clients that take one step from the same model, computed as one sum; see `collapse`.

    by_examples: an update weighs its client's examples in the sum; otherwise 1.
    """

    clients: tuple[int, ...]
    by_examples: bool


@dataclass(frozen=True)
class Summed:
    """One client's part of a group's sum: its payload's header and length, had it sent one.

    floats: the group's sum (P,), carried by one of its clients; None with the others.
    """

    header: Header
    bytes_up: int
    floats: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class AppMessage:
    """A strategy's message to a Flower ClientApp, without the model.

    records: all records, as Flower serialises them; an empty ArrayRecord stands in the
    model's place. arrays: the name of that record; None: the message has no model, and
    its arrays are among the records. group, message: Flower's ids of them.
    """

    records: bytes
    arrays: str | None
    group: str = ""
    message: str = ""


@dataclass(frozen=True)
class AppAnswer:
    """What a Flower ClientApp answers beside an update, or in its place.

    records: as Flower serialises them. With an update an empty ArrayRecord stands in its
    place, and empty MetricRecords for what its header has. arrays: the name of the
    update's record; None: there is no update.
    """

    records: bytes
    arrays: str | None = None


@dataclass(frozen=True)
class Task:
    """What one client is to do: train or evaluate by a plan.

    envelope, state: for a Flower ClientApp. slots: where the client's named vectors lie.
    delivery: None when the client is sent the cohort's payload. download: the bytes it
    takes, where they are not the length of what is sent. group: the clients whose sum
    is asked for; ``client`` is the first of them.
    """

    client: int
    # Flower's message type: "train", "evaluate", …
    kind: str
    plan: Plan
    envelope: AppMessage | None = None
    state: Any = None
    slots: ClientSlots = field(default_factory=dict)
    delivery: Delivery | None = None
    download: int | None = None
    group: Group | None = None

    @property
    def trains(self) -> bool:
        """Return whether this is training."""
        return is_training(self.kind)

    @property
    def has_model(self) -> bool:
        """Return whether the client is sent a model; a ClientApp may be asked without."""
        return self.envelope is None or self.envelope.arrays is not None

    @property
    def beside_bytes(self) -> int:
        """Return the bytes of what a ClientApp is sent beside the model."""
        return len(self.envelope.records) if self.envelope else 0


@dataclass(frozen=True)
class Outcome:
    """What came of a task: a payload (train), metrics (evaluate), or the reason why not.

    answer: of a ClientApp, which may answer a task without a payload or metrics.

    payload: a view, which holds until the next outcome is asked for; with a group its
    sum, see `together.sum_of`. kept: the digest of each named vector that the client
    keeps from now on. base: the header of the model that the client was sent.
    receive_s: seconds of encoding what the client was sent.
    """

    client: int
    payload: Bytes | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    answer: AppAnswer | None = None
    error: str | None = None
    state: Any = None
    train_s: float = 0.0
    encode_s: float = 0.0
    receive_s: float = 0.0
    base: Header | None = None
    bytes_down: int = 0
    kept: Mapping[str, bytes] = field(default_factory=dict)
    # See `Held`.
    fallback: bool = False
    damaged: bool = False
    # In the place of a payload, where the client's update is part of a sum.
    summed: Summed | None = None
    group: tuple[Outcome, ...] = ()

    @property
    def bytes_up(self) -> int:
        """Return the bytes of the client's answer."""
        if self.summed:
            return self.summed.bytes_up
        beside = len(self.answer.records) if self.answer else 0
        return len(self.payload or b"") + beside


def failure_reason(error: BaseException) -> str:
    """Return what is recorded of a client whose work raised an error."""
    if isinstance(error, MemoryError):
        return (
            "out of memory; set a smaller train.batch_size (0 is all of a client's "
            "samples) or fewer engine.workers"
        )
    return reason_of(error)


def with_download(outcome: Outcome, held: Held, receive_s: float = 0.0) -> Outcome:
    """Return an outcome that also carries what is known of the client's download."""
    return replace(
        outcome,
        base=held.header,
        bytes_down=held.bytes_down,
        receive_s=receive_s,
        fallback=held.fallback,
        damaged=held.damaged,
    )
