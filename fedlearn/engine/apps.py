"""Flower's ClientApp on our engines: a user's own app, or our local training behind Flower mods.

The app sees what it would see on a Flower node: a `Message` with the model's arrays and the strategy's config, and
a `Context` whose state lasts from round to round. Its reply travels as a payload like any other update.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp

from fedlearn.arrays import State
from fedlearn.clients.evaluate import evaluate
from fedlearn.clients.train import train
from fedlearn.errors import ClientError, ConfigError
from fedlearn.flower import EXAMPLES, enter, to_record, to_state
from fedlearn.models import write_state
from fedlearn.names import import_path

if TYPE_CHECKING:
    from fedlearn.engine.runner import Held, Outcome, Runner, Task


def load(app: str, mods: Sequence[str]) -> Callable[[Message, Context], Message] | None:
    """Return the ClientApp of ``[client]``: the user's, or ours behind mods, or None when neither is asked for.

    Raises ConfigError when a path does not lead to one.
    """
    if app and mods:
        raise ConfigError(
            "[client] takes app or mods, not both: give the mods to your own ClientApp(mods=[…])"
        )
    if app:
        found = import_path("client app", app)
        if not isinstance(found, ClientApp):
            raise ConfigError(
                f"client app '{app}' is a {type(found).__name__}, not a flwr.clientapp.ClientApp"
            )
        return found
    found = {mod: import_path("mod", mod) for mod in mods}
    for mod, made in found.items():
        if not callable(made):
            raise ConfigError(
                f"mod '{mod}' is a {type(made).__name__}, not a function (message, context, call_next)"
            )
    return _OurApp(list(found.values())) if found else None


class _OurApp:
    """Our local training as a ClientApp behind mods; it serves one runner and one task at a time."""

    def __init__(self, mods: list[Any]) -> None:
        self.app = ClientApp(mods=mods)
        self.app.train()(self._train)
        self.app.evaluate()(self._evaluate)
        self.runner: Runner
        self.task: Task

    def serve(self, runner: Runner, task: Task) -> None:
        self.runner, self.task = runner, task

    def __call__(self, message: Message, context: Context) -> Message:
        return self.app(message, context)

    def _train(self, message: Message, context: Context) -> Message:
        runner, task = self.runner, self.task
        start = to_state(
            runner.layout, next(iter(message.content.array_records.values()))
        )
        update = train(
            runner.module,
            runner.layout,
            task.plan,
            start,
            runner.tensors(task.client),
            task.client,
        )
        end = State(
            start.floats + update.difference.floats,
            start.integers + update.difference.integers,
        )
        metrics = MetricRecord(
            {EXAMPLES: update.examples, "train_loss": update.train_loss}
        )
        return Message(
            RecordDict({"arrays": to_record(runner.layout, end), "metrics": metrics}),
            reply_to=message,
        )

    def _evaluate(self, message: Message, context: Context) -> Message:
        runner, task = self.runner, self.task
        write_state(
            runner.module,
            runner.layout,
            to_state(runner.layout, next(iter(message.content.array_records.values()))),
        )
        score = evaluate(runner.module, runner.tensors(task.client, held_out=True))
        metrics = MetricRecord(
            {EXAMPLES: score.samples, "loss": score.loss, "accuracy": score.accuracy}
        )
        return Message(RecordDict({"metrics": metrics}), reply_to=message)


def answer(runner: Runner, task: Task, held: Held) -> Outcome:
    """Return what the runner's ClientApp answers to a task; raises ClientError when its reply cannot be carried."""
    from fedlearn.engine.runner import Outcome

    enter()
    start = held.state
    begun = time.perf_counter()
    if isinstance(runner.app, _OurApp):
        runner.app.serve(runner, task)
    context = Context(
        run_id=1,
        node_id=task.client,
        node_config={
            "partition-id": task.client,
            "num-partitions": len(runner.population.clients),
        },
        state=RecordDict()
        if task.state is None
        else copy.deepcopy(task.state),  # kept only if the app succeeds
        run_config={},
    )
    reply = runner.app(_message(runner, task, start), context)
    if reply.has_error():
        raise ClientError(f"client {task.client}: {reply.error.reason}")
    trained = time.perf_counter()
    metrics = {
        k: v
        for record in reply.content.metric_records.values()
        for k, v in record.items()
    }
    if task.kind != "train":
        return Outcome(
            task.client, metrics=metrics, state=context.state, train_s=trained - begun
        )
    end = to_state(runner.layout, _arrays(task, reply))
    difference = State(end.floats - start.floats, end.integers - start.integers)
    examples = int(metrics.pop(EXAMPLES, 0))
    if examples < 0:
        raise ClientError(f"client {task.client} reports {examples} examples")
    loss = metrics.get("train_loss")
    encoded, residual = runner.reply(
        task,
        held,
        difference,
        examples,
        loss if isinstance(loss, float) else None,
        metrics,
    )
    encode_s = time.perf_counter() - trained
    return Outcome(
        task.client,
        encoded,
        state=context.state,
        train_s=trained - begun,
        encode_s=encode_s,
        residual=residual,
    )


def _message(runner: Runner, task: Task, start: State) -> Message:
    content = RecordDict(
        {
            name: ConfigRecord(dict(values))
            for name, values in task.config["configs"].items()
        }
    )
    content[task.config["arrays"]] = to_record(runner.layout, start)
    return Message(content, dst_node_id=task.client, message_type=task.kind)


def _arrays(task: Task, reply: Message) -> ArrayRecord:
    records = list(reply.content.array_records.values())
    if len(records) != 1 or reply.content.config_records:
        raise ClientError(
            f"client {task.client} replied with {len(records)} ArrayRecords and {len(reply.content.config_records)} "
            "ConfigRecords; an update is one ArrayRecord and its MetricRecord"
        )
    return records[0]
