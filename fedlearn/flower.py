"""Everything that fedlearn needs of Flower beyond its public API, in one place."""

from __future__ import annotations

import io
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flwr
import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictProto
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity
from numpy.typing import NDArray

from fedlearn.arrays import Change, Layout, State
from fedlearn.wire import UPDATE, Header

# The metric by which Flower's strategies weight replies.
EXAMPLES = "num-examples"

# The code of an error reply: the client's own code failed. Flower's constant is private.
ERROR_CODE = 2

# Where Flower's own code lies.
_FLOWER = Path(flwr.__file__).parent

# What we hang on Flower's objects, whose classes know no such attribute.
_UPDATE = "fedlearn_update"
_STATE = "fedlearn_state"


@dataclass(frozen=True)
class Received:
    """One client's update as the Grid received, decoded and checked it.

    summed: see `ExactSum.add`. weight: what the client reports under the strategy's key;
    0: its examples. beside: a reply's other records, as `pack` made them; b"": it has
    none. arrays: the name of the reply's ArrayRecord; None: that of the message.
    """

    client: int
    header: Header
    difference: Change
    summed: bool = False
    weight: float = 0
    beside: bytes = b""
    arrays: str | None = None

    @property
    def examples(self) -> float:
        """Return the weight of the update, which is its number of examples as a rule."""
        return self.weight or self.header.examples


class HeldArray(Array):
    """An `Array` that holds its numpy array, and makes bytes of it only when asked.

    A model goes through three records in a round; as bytes each of them would cost
    several copies of it.
    """

    def __init__(self, array: NDArray[Any]) -> None:
        """Take an array, which nobody changes from now on."""
        # Flower's own __init__ would make bytes of it.
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
        # Whoever sets bytes has changed the array, so the one that is held is stale.
        self.__dict__.pop("held", None)
        self.__dict__["_data"] = value

    def numpy(self) -> NDArray[Any]:
        """Return a copy of the array."""
        array = self.__dict__.get("held")
        if array is None:
            return super().numpy()
        # A copy, as Flower's: a strategy may write into what it gets.
        return array.copy()  # type: ignore[no-any-return]


class OwnGrid(Grid):
    """What every Grid of ours has in common: Flower's run, and messages made anew."""

    _run: Any = None

    @property
    def run(self) -> Any:
        """Return Flower's run, as set."""
        return self._run

    def set_run(self, run: Any) -> None:
        """Keep Flower's run; nothing here has a use for it."""
        self._run = run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Return a message to a node."""
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)


def enter() -> None:
    """Let this process create messages, and keep Flower's log to what apps and mods say.

    Since flwr 1.38 `Message(...)` raises unless a process-global, private identity is
    set. Under `flwr run` it is set, and is the run's.
    """
    try:
        # Reading it is the test: Flower has no other way to ask.
        TaskIdentity.run_id  # noqa: B018
    except RuntimeError:
        TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
    # No second one: logging knows it again by its identity.
    logging.getLogger("flwr").addFilter(is_of_an_app)


def is_of_an_app(record: logging.LogRecord) -> bool:
    """Tell whether a line of Flower's log is an app's, a mod's or an error.

    What Flower's loops and strategies log of each round stands in our own record.
    """
    if record.levelno >= logging.ERROR:
        return True
    path = Path(record.pathname)
    is_own = path.is_relative_to(_FLOWER)
    # Flower's mods, for which logging is all that some of them do.
    is_mod = is_own and "mod" in path.relative_to(_FLOWER).parts
    return is_mod or not is_own


def attach(reply: Message, received: Received) -> Message:
    """Return the reply with its decoded update, for strategies that add one by one."""
    # Through `__dict__`: it is no part of the message, and never travels.
    reply.__dict__[_UPDATE] = received
    return reply


def pack(records: RecordDict) -> bytes:
    """Return a message's records as Flower serialises them."""
    # Deterministic: the same records have the same bytes in every process.
    proto = recorddict_to_proto(records)
    data: bytes = proto.SerializeToString(deterministic=True)
    return data


def unpack(data: bytes) -> RecordDict:
    """Return the records of `pack`."""
    return recorddict_from_proto(RecordDictProto.FromString(data))


def without(records: RecordDict, name: str | None) -> RecordDict:
    """Return records in which an empty ArrayRecord stands for one of them, by its name."""
    every = dict(records)
    if name is not None:
        # In its place: a reader may look for the first one of a kind.
        every[name] = ArrayRecord()
    return RecordDict(every)


def records_beside(records: RecordDict, name: str, usual: str) -> RecordDict | None:
    """Return what a payload does not carry of a reply with an update; None: nothing.

    name: of the update's record; usual: of the message's. Metrics travel in the payload's
    header, so that only the names of their records stand here.
    """
    is_usual = name == usual and len(records.array_records) == 1
    if is_usual and not records.config_records:
        return None
    beside: dict[str, Any] = {}
    for key, record in without(records, name).items():
        beside[key] = MetricRecord() if isinstance(record, MetricRecord) else record
    return RecordDict(beside)


def copied(records: RecordDict) -> RecordDict:
    """Return records that can be emptied while others stay whole; arrays are shared."""
    copies: dict[str, Any] = {}
    for name, record in records.items():
        if isinstance(record, ArrayRecord):
            copies[name] = with_same_arrays(record)
        elif isinstance(record, MetricRecord):
            copies[name] = MetricRecord(dict(record))
        else:
            copies[name] = ConfigRecord(dict(record))
    return RecordDict(copies)


def fits(layout: Layout, record: ArrayRecord) -> bool:
    """Tell whether a record is a model of a layout: its names and shapes, all of them."""
    source = record.__dict__.get(_STATE)
    if source is not None and source[0] is layout and is_held(record):
        return True
    return len(record) == len(layout.entries) and is_part(layout, record)


def is_part(layout: Layout, record: ArrayRecord) -> bool:
    """Tell whether a record has arrays of a layout and no others."""
    shapes = {entry.name: tuple(entry.shape) for entry in layout.entries}
    return bool(record) and all(
        shapes.get(name) == tuple(array.shape) for name, array in record.items()
    )


def is_foreign(layout: Layout, record: ArrayRecord) -> bool:
    """Tell whether no array of a record is called like one of a layout's."""
    return not any(entry.name in record for entry in layout.entries)


def model_name(layout: Layout, records: RecordDict, usual: str = "") -> str | None:
    """Return the name of the record that is a model of a layout; None: there is none.

    usual: the name to look at first. A record that is nearly one is named too: whoever
    reads it says what is wrong with it.
    """
    arrays = records.array_records
    names = sorted(arrays, key=lambda name: name != usual)
    for name in names:
        if fits(layout, arrays[name]):
            return name
    for name in names:
        if not is_part(layout, arrays[name]) and not is_foreign(layout, arrays[name]):
            return name
    return None


def give_id(message: Message, name: str) -> None:
    """Give a message an id, which its replies name; Flower's SuperLink does so there."""
    message.metadata.__dict__["_message_id"] = name


def update_of(reply: Message, layout: Layout, current: State) -> Received:
    """Return the update on a reply, or else its arrays minus the ``current`` model.

    The first is what `attach` put there. The second serves our strategies inside a
    wrapper that changes the arrays (differential privacy), and on Flower's own Grids.
    Raises ModelError when the arrays are not the layout's.
    """
    received: Received | None = reply.__dict__.get(_UPDATE)
    if received is not None:
        return received
    # One ArrayRecord: the Grid has refused any other number.
    state = to_state(layout, next(iter(reply.content.array_records.values())))
    difference = Change(
        state.floats - current.floats, state.integers - current.integers
    )
    metrics: dict[str, Any] = {}
    for record in reply.content.metric_records.values():
        metrics.update(record)
    header = _header(metrics)
    client = reply.metadata.src_node_id
    return Received(client, header, difference, weight=metrics[EXAMPLES])


def is_of_client_fn(app: ClientApp) -> bool:
    """Return whether a ClientApp is of Flower's old style, ``ClientApp(client_fn=…)``."""
    # Flower keeps it in a private attribute, and has no other way to ask.
    return getattr(app, "_call", None) is not None


def _header(metrics: dict[str, Any]) -> Header:
    """Return the header of a reply that no payload brought: its examples and its loss."""
    loss = metrics.get("train_loss")
    return Header(
        # Nothing was encoded, so there is no version, digest or codec to tell.
        kind=UPDATE,
        round=0,
        digest=bytes(8),
        codec="",
        examples=math.ceil(metrics[EXAMPLES]),
        train_loss=loss if isinstance(loss, int | float) else None,
    )


def to_record(layout: Layout, state: State) -> ArrayRecord:
    """Return a state as Flower's arrays, each of its shape.

    float32, and int64 for integer buffers.
    """
    arrays = layout.split(state)
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})


def for_strategy(layout: Layout, state: State) -> ArrayRecord:
    """Return a state as a strategy takes it: float32, and float64 for integer buffers.

    Strategies calculate with every array alike, and some of Flower's fail on integers
    (QFedAvg) or leave them as floats (FedAvg); `to_state` gives integers back.
    """
    arrays = {}
    for name, array in layout.split(state).items():
        if array.dtype != np.float32:
            array = array.astype(np.float64)
        arrays[name] = HeldArray(array)
    record = ArrayRecord()
    # One by one: arrays given as a whole would be written as bytes.
    for name, held_array in arrays.items():
        record[name] = held_array
    record.__dict__[_STATE] = layout, state, arrays
    return record


def with_same_arrays(record: ArrayRecord) -> ArrayRecord:
    """Return another record of the same arrays; whoever empties one leaves the other."""
    another = ArrayRecord()
    # One by one, as above.
    for name, array in record.items():
        another[name] = array
    if _STATE in record.__dict__:
        another.__dict__[_STATE] = record.__dict__[_STATE]
    return another


def to_state(layout: Layout, record: ArrayRecord) -> State:
    """Return Flower's arrays as a state of the layout's own dtypes.

    The dtype in which a strategy left them does not matter. A record that
    `for_strategy` made, and that nobody has changed, gives the very state that it was
    made of. Raises ModelError when names or shapes are not the layout's.
    """
    source = record.__dict__.get(_STATE)
    # The state itself, without a copy and without its integers as floats.
    if source is not None and source[0] is layout and is_held(record):
        return source[1]  # type: ignore[no-any-return]
    return layout.join({name: array.numpy() for name, array in record.items()})


def is_held(record: ArrayRecord) -> bool:
    """Return whether a record is as `for_strategy` made it."""
    source = record.__dict__.get(_STATE)
    if source is None:
        return False
    arrays = source[2]
    if len(record) != len(arrays):
        return False
    return all(
        # A strategy may have put in another array, or other bytes into this one.
        record.get(name) is array and "held" in array.__dict__
        for name, array in arrays.items()
    )
