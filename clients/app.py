"""The clients' side under ``flwr run``: a mod for payloads, and our training as a ClientApp.

`payloads` stands between Flower and a ClientApp. What arrives is a task and the payloads that
lead to its model. The app behind the mod sees what any ClientApp sees, the model's arrays and a
config. What it answers leaves as one payload. So a ClientApp that you have already sends few
bytes with one more mod:

    app = ClientApp(mods=[payloads])

What a client holds between its rounds (see `fedlearn.clients.held`) lies in the context's
state, which Flower keeps as long as the run lasts.

Legend: P floats of the model's layout.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from fedlearn.arrays import State
from fedlearn.brief import Brief
from fedlearn.clients import report
from fedlearn.clients.build import local_of
from fedlearn.clients.held import Holdings, MissingModel
from fedlearn.clients.local import Contribution, StartModel
from fedlearn.clients.train import train
from fedlearn.errors import ClientError, ConfigError, PayloadError, reason_of
from fedlearn.exchange.exchange_pb2 import Task
from fedlearn.flower import ERROR_CODE, EXAMPLES, to_record, to_state
from fedlearn.plan import Plan, is_training

# The ConfigRecord of a message with its task.
RECORD = "fedlearn"

# The ArrayRecord of a message with its payloads.
PAYLOADS = "payloads"

# The ArrayRecord of an update from our own training. It is told from a model by its name:
# adding it to the model and subtracting the model again would round twice.
DIFFERENCE = "difference"

# Vectors of a kind that a client holds: a round that is repeated goes back to the one before
# the newest.
NEWEST = 2

NextApp = Callable[[Message, Context], Message]


def question(
    experiment: str, task: Task | None, payloads: Sequence[bytes]
) -> RecordDict:
    """Return the content of a message to a client.

    experiment: JSON of what a client builds. task: None asks which client the SuperNode serves.
    payloads: one after another.
    """
    # Serialised: a ConfigRecord holds no messages.
    config = ConfigRecord({"experiment": experiment})
    if task is not None:
        config["task"] = task.SerializeToString()
    return RecordDict({RECORD: config, PAYLOADS: _to_record(payloads)})


def read_reply(reply: RecordDict) -> tuple[Mapping[str, Any], bytes | None]:
    """Return what a client's reply says, and its payload, if it has one.

    Raises PayloadError for a reply that the mod did not make.
    """
    record = reply.config_records.get(RECORD)
    if record is None:
        raise PayloadError(
            "the ClientApp answers without a payload: "
            "give it the mod fedlearn.clients.app.payloads"
        )
    payloads = _from_record(reply.array_records.get(PAYLOADS))
    return record, payloads[0] if payloads else None


def payloads(message: Message, context: Context, call_next: NextApp) -> Message:
    """Decode what arrives for the app behind this mod, and encode what it answers.

    The app gets ``arrays``, the model, and ``config``, the plan of the round and
    ``server-round``. To "train" it answers with one ArrayRecord, its model, and a MetricRecord
    with ``num-examples``; to "evaluate" with ``loss``, ``accuracy`` and ``num-examples``. What
    fails in it becomes an error reply with the reason.
    """
    try:
        return _answer(message, context, call_next)
    # No error: the server answers this one by sending the models again.
    except MissingModel:
        return _reply(message, {"lacking": True})
    except MemoryError:
        # Not the error's own text, which is empty or about an allocator.
        reason = "out of memory"
    # The app, the model or the data is the user's code, which raises anything.
    except (Exception, SystemExit) as error:
        reason = reason_of(error)
    return Message(Error(code=ERROR_CODE, reason=reason), reply_to=message)


def make(mods: Sequence[Any] = ()) -> ClientApp:
    """Return our local training as a ClientApp; mods see its updates before they are encoded.

    The client-side mods of Flower's DP wrappers do not work here: they need a config of the
    strategy's, and a task has none.
    """
    # First, so that all other mods see what any ClientApp sees.
    client_app = ClientApp(mods=[payloads, *mods])

    @client_app.train()
    def train_client(message: Message, context: Context) -> Message:
        return _train(message, context, bool(mods))

    @client_app.evaluate()
    def evaluate_client(message: Message, context: Context) -> Message:
        bench = _Bench.of(message.content.config_records["config"], context)
        state = to_state(bench.layout, message.content.array_records["arrays"])
        scores = bench.local.evaluate(bench.client, state)
        metrics = MetricRecord(dict(scores))
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    return client_app


def _train(message: Message, context: Context, for_mods: bool) -> Message:
    """Return the reply of our training: its update, or its model, as mods expect it."""
    bench = _Bench.of(message.content.config_records["config"], context)
    start = to_state(bench.layout, message.content.array_records["arrays"])
    data = bench.local.tensors(bench.client)
    update = train(
        bench.local.module, bench.layout, bench.plan, start, data, bench.client
    )
    metrics = MetricRecord({EXAMPLES: update.examples, "train_loss": update.train_loss})
    name = DIFFERENCE
    arrays = update.difference
    # Mods of Flower clip or mask models, so they need the whole model and not an
    # update.
    if for_mods:
        name = "arrays"
        arrays = State(
            start.floats + arrays.floats,
            start.integers + arrays.integers,
        )
    records = RecordDict({name: to_record(bench.layout, arrays), "metrics": metrics})
    return Message(records, reply_to=message)


# At module level, as `flwr run` imports it by this name.
app = make()


def _answer(message: Message, context: Context, call_next: NextApp) -> Message:
    """Return the answer to a task, or to the question whom this SuperNode serves."""
    record = message.content.config_records.get(RECORD)
    if record is None:
        raise ConfigError(
            "the mod fedlearn.clients.app.payloads needs the ServerApp "
            "fedlearn.app:app, and got a message of another"
        )
    if "task" not in record:
        return _reply(message, {"client": _client(context)})
    bench = _Bench.of(record, context)
    return bench.do(Task.FromString(record["task"]), message, context, call_next)


class _Bench:
    """Model and data of one client, as the experiment describes them."""

    def __init__(self, experiment: str, client: int, source: str) -> None:
        """Build them. source: "auto", a file.npz, or an import path. Raises UserError."""
        # A second thread would change low bits.
        torch.set_num_threads(1)
        self.local = local_of(Brief.from_json(experiment), client, source)
        self.client = client
        self.layout = self.local.layout
        # Of no round: `do` sets the round's plan before the app runs.
        self.plan = Plan(0, 0)

    @classmethod
    def of(cls, record: ConfigRecord, context: Context) -> _Bench:
        """Return the bench of a message's experiment and of the SuperNode's client."""
        source = str(context.node_config.get("data", "auto"))
        return _bench(str(record["experiment"]), _client(context), source)

    def do(
        self, task: Task, message: Message, context: Context, call_next: NextApp
    ) -> Message:
        """Have the app do a task, and return its answer as a payload.

        Raises MissingModel, and FedlearnError where the task or the app's reply cannot be used.
        """
        plan = self.plan = Plan.from_json(task.plan)
        kind = message.metadata.message_type
        holdings = Holdings(RecordStorage(context.state), NEWEST)
        received = _from_record(message.content.array_records.get(PAYLOADS))
        start = holdings.arrive(self.local, task, received)
        # Before the app runs: the next task may start from this model whatever comes of
        # it.
        if task.keep:
            holdings.keep_model(start.state.floats)
        message.content = self._content(message, start)
        with self.local.alone(kind, plan, self.client):
            reply = call_next(message, context)
        if not isinstance(reply, Message):
            raise ClientError(
                f"client {self.client}: the app's {kind} function returned "
                f"{type(reply).__name__}; it must return a Message(…, reply_to=…)"
            )
        # The app behind the mod failed; its own error says more than ours.
        if reply.has_error():
            return reply
        if not is_training(kind):
            metrics = self._metrics(kind, reply.content)
            return _payload_reply(message, json.dumps(metrics).encode())
        contribution = self._contribution(reply, start.state)
        update = self.local.answer(
            self.client, plan, start, contribution, holdings.residual(task)
        )
        if update.residual is not None:
            holdings.keep_residual(task, update.residual)
        return _payload_reply(message, update.payload)

    def _content(self, message: Message, start: StartModel) -> RecordDict:
        """Return what the app behind the mod gets."""
        values = self.plan.to_dict()
        # A record holds no tables: each method's number has a key of its own.
        for name, number in values.pop("methods").items():
            values[f"method.{name}"] = number
        # Likewise each option of the optimiser.
        for name, option in values.pop("optimizer_options").items():
            values[f"optimizer.{name}"] = option
        values["server-round"] = self.plan.round
        values["experiment"] = message.content.config_records[RECORD]["experiment"]
        # One record of each sort, as Flower's mods expect.
        config = ConfigRecord(values)
        arrays = to_record(self.layout, start.state)
        return RecordDict({"arrays": arrays, "config": config})

    def _contribution(self, reply: Message, start: State) -> Contribution:
        """Return the update in the app's reply, and what its metrics tell."""
        said = report.read(self.client, reply.content.metric_records)
        return Contribution(
            self._update(reply, start),
            said.examples,
            said.train_loss,
            said.metrics,
            said.records,
        )

    def _metrics(self, kind: str, records: RecordDict) -> dict[str, float]:
        """Return the finite numbers of an answer. Raises ClientError for other records."""
        metrics = report.flat(records.metric_records)
        lists = [name for name, value in metrics.items() if isinstance(value, list)]
        if lists or records.array_records or records.config_records:
            raise ClientError(
                f"client {self.client} answered '{kind}' with "
                f"{len(records.array_records)} ArrayRecords, "
                f"{len(records.config_records)} ConfigRecords and lists under "
                f"{lists}; under 'flwr run' an answer is a MetricRecord of single numbers"
            )
        return {k: v for k, v in metrics.items() if report.is_finite(v)}

    def _update(self, reply: Message, start: State) -> State:
        """Return the app's model minus the one it started from. Raises ClientError."""
        records = reply.content.array_records
        configs = len(reply.content.config_records)
        if len(records) != 1 or configs:
            raise ClientError(
                f"client {self.client} replied with {len(records)} ArrayRecords and "
                f"{configs} ConfigRecords; under 'flwr run' an update is one ArrayRecord "
                "and its MetricRecords"
            )
        ((name, record),) = records.items()
        state = to_state(self.layout, record)
        if name == DIFFERENCE:
            return state
        return State(state.floats - start.floats, state.integers - start.integers)


# Flower's simulation serves several clients in one process.
@lru_cache(maxsize=4)
def _bench(experiment: str, client: int, source: str) -> _Bench:
    return _Bench(experiment, client, source)


class RecordStorage:
    """Vectors (P,) in a context's state: an ArrayRecord for each kind, the oldest first."""

    def __init__(self, state: RecordDict) -> None:
        """Take the state."""
        self.state = state

    def read(self, kind: str, name: str) -> NDArray[np.float32] | None:
        """Return a vector; None where it is missing."""
        array = self._arrays(kind).get(name)
        if array is None:
            return None
        return array.numpy().astype(np.float32)

    def write(self, kind: str, name: str, vector: NDArray[np.float32]) -> None:
        """Store a vector as the newest of its kind."""
        arrays = self._arrays(kind)
        # Removed first, so that it stands behind all others: the newest is the last.
        arrays.pop(name, None)
        arrays[name] = Array(vector)
        self._store(kind, arrays)

    def forget(self, kind: str, newest: int) -> None:
        """Remove all vectors of a kind but the newest few."""
        arrays = list(self._arrays(kind).items())
        newest_arrays = dict(arrays[-newest:])
        self._store(kind, newest_arrays)

    def _arrays(self, kind: str) -> dict[str, Array]:
        """Return the vectors of a kind by name; a copy, since records are replaced whole."""
        record = self.state.array_records.get(f"{RECORD}.{kind}")
        if record is None:
            return {}
        return dict(record.items())

    def _store(self, kind: str, arrays: dict[str, Array]) -> None:
        self.state[f"{RECORD}.{kind}"] = ArrayRecord(arrays)


def _client(context: Context) -> int:
    """Return the client that a SuperNode serves; raises ConfigError when its owner does not say."""
    client = context.node_config.get("partition-id")
    # A bool is an int in Python, but no client's number.
    if not isinstance(client, int) or isinstance(client, bool) or client < 0:
        raise ConfigError(
            "this SuperNode does not say which client it serves: "
            "start it with --node-config 'partition-id=0' (or 1, 2, …)"
        )
    return client


def _to_record(payloads: Sequence[bytes]) -> ArrayRecord:
    """Return payloads as a record of byte arrays, in order."""
    arrays = {}
    for place, payload in enumerate(payloads):
        # ArrayRecords hold arrays alone, so bytes travel as uint8.
        arrays[str(place)] = Array(np.frombuffer(payload, np.uint8))
    return ArrayRecord(arrays)


def _from_record(record: ArrayRecord | None) -> list[bytes]:
    """Return the payloads of a record, in order."""
    if record is None:
        return []
    return [array.numpy().tobytes() for array in record.values()]


def _reply(message: Message, values: Mapping[str, Any]) -> Message:
    """Return a reply that carries some values and no payload."""
    config = ConfigRecord(dict(values))
    return Message(RecordDict({RECORD: config}), reply_to=message)


def _payload_reply(message: Message, payload: bytes) -> Message:
    """Return a reply that carries a payload."""
    # Tells a payload from `lacking` and from the question's reply.
    config = ConfigRecord({"answer": True})
    records = RecordDict({RECORD: config, PAYLOADS: _to_record([payload])})
    return Message(records, reply_to=message)
