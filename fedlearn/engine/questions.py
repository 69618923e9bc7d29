"""What agents are asked: a task as a message with its payloads, and what may answer it.

Legend: P floats of the model's layout.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedlearn.arrays import State
from fedlearn.codec import canonical, feedback
from fedlearn.engine.runner import Runner
from fedlearn.engine.task import Held, Task
from fedlearn.errors import PayloadError
from fedlearn.exchange import exchange_pb2 as pb
from fedlearn.exchange.keys import Key, proto
from fedlearn.memory.downlink import Downlink
from fedlearn.memory.slots import COPIES, RESIDUALS
from fedlearn.server.work import WorkOrder
from fedlearn.wire import GRADIENT, UPDATE, digest, encode_model, read_message
from fedlearn.wire.header import MOST_EXAMPLES, MOST_METRIC, check_header

# An evaluation has a few numbers; a longer text is somebody's attempt to fill the memory.
_METRICS_BYTES = 1 << 16


@dataclass(frozen=True)
class Question:
    """A task as it goes out: its key, and the model that the client holds then."""

    task: Task
    key: Key
    held: Held
    message: pb.Task
    payloads: tuple[bytes, ...]

    def fault(self, data: bytes) -> str | None:
        """Return why an answer cannot be counted, as far as its header tells; None: it may."""
        if not self.task.trains:
            if parse_metrics(data) is None:
                return "the metrics are not numbers"
            return None
        try:
            header, message = read_message(data)
            # Here and not when it is decoded: what is stored must not end a run.
            check_header(message)
            codec = canonical(feedback(self.task.plan.codec)[1])
        except PayloadError as error:
            return str(error)
        start = self.held.header
        if header.kind not in (UPDATE, GRADIENT):
            return f"a payload of kind {header.kind} where an update is expected"
        # A late answer of another round, or of a copy that was replaced meanwhile.
        if (header.round, header.digest) != (start.round, start.digest):
            return "the update started from another model than the one sent"
        if header.codec != codec:
            return f"the update is encoded by {header.codec}, not by {codec} as asked"
        # A strategy may weigh by another metric, which is checked when it is decoded.
        if not (header.examples or header.metrics or header.records):
            return "the update reports 0 examples; it would weigh nothing"
        return None

    def order(self) -> WorkOrder:
        """Return the question as a service carries it."""
        return WorkOrder(
            self.task.client, self.key, self.message, self.payloads, self.fault
        )


class Questions:
    """Makes the questions of one run: by the code that the simulation encodes with."""

    def __init__(self, runner: Runner, downlink: Downlink) -> None:
        """Take the clients, as the coordinator knows them, and the way to them."""
        self.runner = runner
        self.downlink = downlink
        # Questions of a kind that a client was asked in a round: a repeated round asks
        # again, under another key.
        self._turns: Counter[tuple[int, int, str]] = Counter()
        self._initial = digest(runner.initial)

    def ask(self, task: Task, payload: bytes) -> Question:
        """Return a task with what its client is sent."""
        held = self.runner.receive(task, payload)
        place = (task.plan.round, task.client, task.kind)
        key = (task.plan.round, task.kind, self._turns[place])
        self._turns[place] += 1
        base, payloads = self._payloads(task, held, payload)
        # 0 stands for the first model, which each client can make itself.
        base_name = 0 if base == self._initial else int.from_bytes(base, "little")
        message = pb.Task(
            key=proto(key),
            plan=task.plan.to_json(),
            sizes=[len(part) for part in payloads],
            base=base_name,
            initial=int.from_bytes(self._initial, "little"),
            feedback=feedback(task.plan.codec)[0],
            keep=task.delivery is not None or task.download is not None,
        )
        residual = task.slots.get(RESIDUALS)
        if residual is not None and not residual.empty:
            message.residual = int.from_bytes(residual.digest, "little")
        return Question(task, key, held, message, payloads)

    def repair(
        self, question: Question, payload: bytes
    ) -> tuple[pb.Task, tuple[bytes, ...]]:
        """Return a question for a client that lacks the model the difference starts from.

        The first model and the missing one go before what it was sent.
        """
        payloads = self._repair_payloads(question, payload)
        message = pb.Task()
        message.CopyFrom(question.message)
        message.base = 0
        message.repair = True
        del message.sizes[:]
        message.sizes.extend(len(part) for part in payloads)
        return message, payloads

    def _payloads(
        self, task: Task, held: Held, payload: bytes
    ) -> tuple[bytes, tuple[bytes, ...]]:
        """Return the digest of the model that a client starts from, and its payloads."""
        own = (bytes(held.payload or payload),)
        copy = task.slots.get(COPIES)
        if copy is not None and not copy.empty:
            return copy.digest, own
        series = self.downlink.series(task.client)
        if series is not None:
            return series
        # Whole models start from nothing.
        return bytes(8), own

    def _repair_payloads(self, question: Question, payload: bytes) -> tuple[bytes, ...]:
        runner, task = self.runner, question.task
        first = self._exact(runner.initial)
        if task.delivery is None:
            return first, payload
        if task.delivery.whole or task.slots[COPIES].empty:
            return first, *question.payloads
        copies = runner.vectors[COPIES]
        missing = copies.read(task.client, task.slots[COPIES].slot)
        return first, self._exact(missing), *question.payloads

    def _exact(self, floats: np.ndarray[Any, np.dtype[np.float32]]) -> bytes:
        """Return a model's floats (P,) as a payload that loses nothing."""
        layout = self.runner.layout
        integers = np.zeros(layout.integers, np.int64)
        payload, _, _ = encode_model(layout, State(floats, integers), 0, "raw32", 0)
        return payload


def parse_metrics(data: bytes) -> dict[str, float] | None:
    """Return an evaluation's numbers; None for bytes that are none."""
    if len(data) > _METRICS_BYTES:
        return None
    try:
        metrics = json.loads(data)
        if not isinstance(metrics, dict) or not all(map(_is_number, metrics.values())):
            return None
    except (ValueError, RecursionError):
        return None
    # An app under `flwr run` may have other names than "loss" and "accuracy".
    count = metrics.get("num-examples")
    if not isinstance(count, int) or not 0 < count <= MOST_EXAMPLES:
        return None
    return metrics


def _is_number(value: object) -> bool:
    """Tell whether a value is a number that a mean can be taken of."""
    # To Python, true is a number too.
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    # False for NaN too.
    return abs(value) <= MOST_METRIC
