"""The clients' side of an experiment under ``flwr run``: our local training as a ClientApp, our payloads as its mod.

`payloads` stands between Flower and a ClientApp. What arrives is a task and the payloads that lead to its model; the app
behind the mod sees what any ClientApp sees, the model's arrays and a config, and what it answers leaves as one payload. So a
ClientApp that you have already sends few bytes with one more mod:

    app = ClientApp(mods=[payloads])

What a client holds between its rounds (the model that the next difference starts from, what its codec lost) lies in the
context's state, which Flower keeps as long as the run lasts.

Legend: P floats of the model's layout.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
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
from fedlearn.clients.build import arrive, local_of
from fedlearn.clients.train import train
from fedlearn.errors import ClientError, ConfigError, FedlearnError, PayloadError
from fedlearn.exchange.exchange_pb2 import Task
from fedlearn.exchange.keys import of, residual_name
from fedlearn.flower import ERROR_CODE, EXAMPLES, to_record, to_state
from fedlearn.plan import Plan
from fedlearn.wire import Header, decode_model, digest

RECORD = "fedlearn"
"""The ConfigRecord of a message with its task, and the ArrayRecord with its payloads."""

KEPT = 2
"""Vectors of a kind that a client keeps: a round that is repeated goes back to the one before the newest."""

Next = Callable[[Message, Context], Message]


def question(experiment: str, task: Task | None, sent: Sequence[bytes]) -> RecordDict:
    """Return the content of a message to a client; without a task it asks which client the SuperNode serves.

    experiment: what a client has to know to build model and data, JSON. sent: the payloads, one after another.
    """
    told = ConfigRecord({"experiment": experiment})
    if task is not None:
        told["task"] = task.SerializeToString()
    arrays = {
        str(place): Array(np.frombuffer(payload, np.uint8))
        for place, payload in enumerate(sent)
    }
    return RecordDict({RECORD: told, "payloads": ArrayRecord(arrays)})


def heard(reply: RecordDict) -> tuple[Mapping[str, Any], bytes | None]:
    """Return what a client's reply says, and its payload; raises PayloadError for a reply that the mod did not make."""
    record = reply.config_records.get(RECORD)
    if record is None:
        raise PayloadError(
            "the ClientApp answers without a payload: give it the mod fedlearn.clients.app.payloads"
        )
    return record, next(iter(_bytes(reply.array_records.get("payloads"))), None)


def payloads(message: Message, context: Context, call_next: Next) -> Message:
    """Decode what arrives for the app behind this mod, and encode what it answers.

    The app gets ``arrays``, the model, and ``config``, the plan of the round and ``server-round``. To "train" it answers
    with one ArrayRecord, its model, and a MetricRecord with ``num-examples``; to "evaluate" with ``loss``, ``accuracy`` and
    ``num-examples``. What fails in it becomes an error reply with the reason.
    """
    try:
        record = message.content.config_records.get(RECORD)
        if record is None:
            raise ConfigError(
                "the mod fedlearn.clients.app.payloads needs the ServerApp fedlearn.app:app, and got a message of another"
            )
        if "task" not in record:
            answer: dict[str, Any] = {"client": _client(context)}
            return Message(RecordDict({RECORD: ConfigRecord(answer)}), reply_to=message)
        return _Bench.of(record, context).do(
            Task.FromString(record["task"]), message, context, call_next
        )
    except _Lacking:
        return Message(
            RecordDict({RECORD: ConfigRecord({"lacking": True})}), reply_to=message
        )
    except FedlearnError as error:
        reason = str(error)
    except MemoryError:
        reason = "out of memory"
    except (
        Exception,
        SystemExit,
    ) as error:  # the app, the model or the data is the user's code
        reason = f"{type(error).__name__}: {error}"
    return Message(Error(code=ERROR_CODE, reason=reason), reply_to=message)


def make(mods: Sequence[Any] = ()) -> ClientApp:
    """Return our local training as a ClientApp; mods see its updates before they are encoded.

    The client-side mods of Flower's DP wrappers do not work here: they need a config of the strategy's, and a task has none.
    """
    made = ClientApp(mods=[payloads, *mods])

    @made.train()
    def train_client(message: Message, context: Context) -> Message:
        bench = _Bench.of(message.content.config_records["config"], context)
        start = to_state(bench.layout, message.content.array_records["arrays"])
        update = train(
            bench.local.module,
            bench.layout,
            bench.plan,
            start,
            bench.local.tensors(bench.client),
            bench.client,
        )
        metrics = MetricRecord(
            {EXAMPLES: update.examples, "train_loss": update.train_loss}
        )
        name, moved = (
            "difference",
            update.difference,
        )  # exactly: adding it to the model and subtracting it again rounds twice
        if mods:
            name, moved = (
                "arrays",
                State(start.floats + moved.floats, start.integers + moved.integers),
            )
        return Message(
            RecordDict({name: to_record(bench.layout, moved), "metrics": metrics}),
            reply_to=message,
        )

    @made.evaluate()
    def evaluate_client(message: Message, context: Context) -> Message:
        bench = _Bench.of(message.content.config_records["config"], context)
        state = to_state(bench.layout, message.content.array_records["arrays"])
        metrics = MetricRecord(dict(bench.local.evaluate(bench.client, state)))
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    return made


app = make()


class _Lacking(Exception):
    """The model that a difference starts from is not here."""


class _Bench:
    """Model and data of one client, as the experiment names them."""

    def __init__(self, experiment: str, client: int, source: str) -> None:
        """Build them. source: "auto", a file.npz, or an import path. Raises UserError."""
        torch.set_num_threads(1)  # two would change low bits
        self.local = local_of(Brief.from_json(experiment), client, source)
        self.client, self.layout = client, self.local.layout
        self.plan = Plan(0, 0)

    @classmethod
    def of(cls, record: ConfigRecord, context: Context) -> _Bench:
        """Return the bench of a message's experiment and of the SuperNode's client."""
        return _bench(
            str(record["experiment"]),
            _client(context),
            str(context.node_config.get("data", "auto")),
        )

    def do(
        self, task: Task, message: Message, context: Context, call_next: Next
    ) -> Message:
        """Have the app do a task, and return its answer as a payload; raises FedlearnError and _Lacking."""
        self.plan = plan = Plan.from_json(task.plan)
        memory, kind = _Memory(context.state), message.metadata.message_type
        header, state = self._arrive(
            task, _bytes(message.content.array_records.get("payloads")), memory
        )
        if task.keep:
            memory.keep("copies", digest(state.floats), state.floats)
        experiment = message.content.config_records[RECORD]["experiment"]
        asked = ConfigRecord(
            {**asdict(plan), "server-round": plan.round, "experiment": experiment}
        )
        message.content = RecordDict(
            {"arrays": to_record(self.layout, state), "config": asked}
        )  # one of each, as mods expect
        with self.local.alone(kind, plan, self.client):
            reply = call_next(message, context)
        if reply.has_error():
            return reply
        metrics = {
            k: v
            for record in reply.content.metric_records.values()
            for k, v in record.items()
        }
        if kind != "train":
            return _reply(message, json.dumps(metrics).encode())
        lost = (
            memory.find("residuals", task.residual.to_bytes(8, "little"))
            if task.feedback and task.residual
            else None
        )
        examples, loss = int(metrics.pop(EXAMPLES, 0)), metrics.pop("train_loss", None)  # type: ignore[arg-type]
        told = (
            float(loss)
            if isinstance(loss, int | float) and math.isfinite(loss)
            else None
        )
        made = self.local.answer(
            self.client,
            plan,
            header,
            state,
            self._learned(reply, state),
            examples,
            told,
            metrics,
            lost,
        )
        if made.residual is not None:
            name = residual_name(of(task.key))
            memory.keep("residuals", name, made.residual)
        return _reply(message, made.payload)

    def _arrive(
        self, task: Task, sent: list[bytes], memory: _Memory
    ) -> tuple[Header, State]:
        """Return the model that the payloads lead to, one after another."""
        if task.repair:
            _, first = decode_model(self.layout, sent[0])
            memory.keep("first", digest(first.floats), first.floats)
            sent = sent[1:]
        initial = self._held(self.local.initial, "first", task.initial, memory)
        self.local.initial = initial
        base = self._held(initial, "copies", task.base or task.initial, memory)
        return arrive(self.layout, sent, base, initial)

    def _held(
        self, guess: NDArray[np.float32], kind: str, wanted: int, memory: _Memory
    ) -> NDArray[np.float32]:
        """Return the model (P,) of a digest: the guess, if it is that one, or a kept one. Raises _Lacking."""
        name = wanted.to_bytes(8, "little")
        if digest(guess) == name:
            return guess
        if (found := memory.find(kind, name)) is None:
            raise _Lacking
        return found

    def _learned(self, reply: Message, start: State) -> State:
        """Return the app's model minus the one it started from."""
        records = reply.content.array_records
        if len(records) != 1:
            raise ClientError(
                f"client {self.client} replied with {len(records)} ArrayRecords; an update is one, and its MetricRecord"
            )
        ((name, record),) = records.items()
        found = to_state(self.layout, record)
        return (
            found
            if name == "difference"
            else State(found.floats - start.floats, found.integers - start.integers)
        )


@lru_cache(maxsize=4)  # Flower's simulation serves several clients in one process
def _bench(experiment: str, client: int, source: str) -> _Bench:
    return _Bench(experiment, client, source)


class _Memory:
    """What a client keeps between messages, in its context's state: vectors (P,) by kind and name."""

    def __init__(self, state: RecordDict) -> None:
        self.state = state

    def find(self, kind: str, name: bytes) -> NDArray[np.float32] | None:
        """Return a vector; None: it is not here."""
        found = self._kept(kind).get(name.hex())
        return None if found is None else found.numpy().astype(np.float32)

    def keep(self, kind: str, name: bytes, vector: NDArray[np.float32]) -> None:
        """Keep a vector as the newest of its kind, and the one before."""
        older = [
            (key, array) for key, array in self._kept(kind).items() if key != name.hex()
        ]
        self.state[f"{RECORD}.{kind}"] = ArrayRecord(
            dict([*older[1 - KEPT :], (name.hex(), Array(vector))])
        )

    def _kept(self, kind: str) -> ArrayRecord:
        return self.state.array_records.get(f"{RECORD}.{kind}") or ArrayRecord()


def _client(context: Context) -> int:
    """Return the client that a SuperNode serves; raises ConfigError when its owner does not say."""
    found = context.node_config.get("partition-id")
    if not isinstance(found, int) or isinstance(found, bool) or found < 0:
        raise ConfigError(
            "this SuperNode does not say which client it serves: start it with --node-config 'partition-id=0' (or 1, 2, …)"
        )
    return found


def _bytes(record: ArrayRecord | None) -> list[bytes]:
    """Return the payloads of a record, in order."""
    return [array.numpy().tobytes() for array in (record or {}).values()]


def _reply(message: Message, payload: bytes) -> Message:
    arrays = ArrayRecord({"0": Array(np.frombuffer(payload, np.uint8))})
    return Message(
        RecordDict({RECORD: ConfigRecord({"answer": True}), "payloads": arrays}),
        reply_to=message,
    )
