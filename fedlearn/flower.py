"""Everything that fedlearn needs of Flower beyond its public API, in one place."""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message
from flwr.supercore.task_identity import TaskIdentity
from numpy.typing import NDArray

from fedlearn.arrays import Change, Layout, State
from fedlearn.wire import UPDATE, Header

EXAMPLES = "num-examples"
"""The metric by which Flower's strategies weight replies."""

ERROR_CODE = 2
"""The code of an error reply: the client's own code failed (Flower's constant for it is private)."""


@dataclass(frozen=True)
class Received:
    """One client's update as the Grid received, decoded and checked it."""

    client: int
    header: Header
    difference: Change
    summed: bool = False  # see `ExactSum.add`


class HeldArray(Array):
    """An `Array` that holds its numpy array, and writes it as bytes when somebody asks for those.

    A model goes through three records in a round; as bytes each of them costs several copies of it.
    """

    def __init__(self, array: NDArray[Any]) -> None:
        """Take an array, which nobody changes from now on."""
        self.__dict__.update(
            dtype=str(array.dtype),
            shape=tuple(array.shape),
            stype="numpy.ndarray",
            held=array,
        )

    @property
    def data(self) -> bytes:
        """Return the array in numpy's format, as `Array` has it."""
        if "_data" not in self.__dict__:
            buffer = io.BytesIO()
            np.save(buffer, self.__dict__["held"], allow_pickle=False)
            self.__dict__["_data"] = buffer.getvalue()
        return self.__dict__["_data"]  # type: ignore[no-any-return]

    @data.setter
    def data(self, value: bytes) -> None:
        self.__dict__.pop("held", None)
        self.__dict__["_data"] = value

    def numpy(self) -> NDArray[Any]:
        """Return a copy of the array."""
        held = self.__dict__.get("held")
        return super().numpy() if held is None else held.copy()


def enter() -> None:
    """Let this process create messages, and keep Flower's own log to errors.

    Since flwr 1.38 `Message(...)` raises unless a process-global, private identity is set.
    """
    try:
        TaskIdentity.run_id  # noqa: B018  # under `flwr run` it is set, and is the run's
    except RuntimeError:
        TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
    logging.getLogger("flwr").setLevel(logging.ERROR)


def attach(reply: Message, received: Received) -> Message:
    """Return the reply with its decoded update, for strategies that add updates one by one."""
    reply.__dict__["fedlearn_update"] = received
    return reply


def update_of(reply: Message, layout: Layout, current: State) -> Received:
    """Return the update that `attach` put on a reply, or else the reply's arrays minus the ``current`` model.

    The second serves our strategies inside a wrapper that changes the arrays (differential privacy), and on
    Flower's own Grids.
    """
    received: Received | None = reply.__dict__.get("fedlearn_update")
    if received is not None:
        return received
    end = to_state(layout, next(iter(reply.content.array_records.values())))
    metrics = {
        k: v
        for record in reply.content.metric_records.values()
        for k, v in record.items()
    }
    header = Header(
        kind=UPDATE,
        round=0,
        digest=bytes(8),
        codec="",
        examples=int(metrics[EXAMPLES]),  # type: ignore[arg-type]
        train_loss=metrics.get("train_loss"),  # type: ignore[arg-type]
    )
    return Received(
        reply.metadata.src_node_id,
        header,
        Change(end.floats - current.floats, end.integers - current.integers),
    )


def to_record(layout: Layout, state: State) -> ArrayRecord:
    """Return a state as Flower's arrays, each of its shape: float32, and int64 for integer buffers."""
    return ArrayRecord(
        {name: Array(array) for name, array in layout.split(state).items()}
    )


def for_strategy(layout: Layout, state: State) -> ArrayRecord:
    """Return a state as a strategy takes it: float32, and float64 for integer buffers.

    Strategies calculate with every array alike, and some of Flower's fail on integers (QFedAvg) or leave them as
    floats (FedAvg); `to_state` gives integers back.
    """
    arrays = {
        n: HeldArray(a if a.dtype == np.float32 else a.astype(np.float64))
        for n, a in layout.split(state).items()
    }
    record = ArrayRecord()
    for (
        name,
        array,
    ) in arrays.items():  # given as a whole they would be written as bytes
        record[name] = array
    record.__dict__["fedlearn_state"] = layout, state, arrays
    return record


def to_state(layout: Layout, record: ArrayRecord) -> State:
    """Return Flower's arrays as a state of the layout's own dtypes, whatever dtype a strategy left them in.

    A record that `for_strategy` made, and that nobody has changed, gives the very state that it was made of. Raises ModelError
    when names or shapes are not the layout's.
    """
    made = record.__dict__.get("fedlearn_state")
    if made is not None and made[0] is layout and is_held(record):
        return made[1]  # type: ignore[no-any-return]
    return layout.join({name: array.numpy() for name, array in record.items()})


def is_held(record: ArrayRecord) -> bool:
    """Tell whether a record is as `for_strategy` made it."""
    made = record.__dict__.get("fedlearn_state")
    if made is None or len(record) != len(made[2]):
        return False
    return all(
        record.get(name) is array and "held" in array.__dict__
        for name, array in made[2].items()
    )
