"""Flower's ClientApp on our engines: a user's own app, or our local training behind Flower mods.

The app sees what it would see on a Flower node: a `Message` with the model's arrays and
the strategy's config, and a `Context` whose state lasts from round to round. Its reply
travels as a payload like any other update.
"""

from __future__ import annotations

import copy
import inspect
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedlearn.arrays import State
from fedlearn.clients import report
from fedlearn.clients.evaluate import evaluate
from fedlearn.clients.local import Contribution
from fedlearn.clients.train import train
from fedlearn.config.values import of_client
from fedlearn.engine.runner import Runner
from fedlearn.engine.task import AppAnswer, Held, Outcome, Task
from fedlearn.errors import ClientError, ConfigError
from fedlearn.flower import (
    EXAMPLES,
    enter,
    give_id,
    is_of_client_fn,
    model_name,
    pack,
    records_beside,
    to_record,
    to_state,
    unpack,
)
from fedlearn.models import write_state
from fedlearn.names import import_path


@dataclass(frozen=True)
class AppConfig:
    """What ``[client]`` tells an app of the run and of its nodes.

    run: the values of ``context.run_config``. node: more of ``context.node_config``; a list
    has one value for each client.
    """

    run: Mapping[str, Any] = field(default_factory=dict)
    node: Mapping[str, Any] = field(default_factory=dict)


def load(
    app: str, mods: Sequence[str], config: AppConfig | None = None
) -> UserApp | None:
    """Return the ClientApp of ``[client]``: the user's, or ours behind mods; None: neither.

    Raises ConfigError when a path does not lead to one, and for a config that nobody reads.
    """
    config = config or AppConfig()
    if app and mods:
        raise ConfigError(
            "[client] takes app or mods, not both: "
            "give the mods to your own ClientApp(mods=[…])"
        )
    if app:
        return UserApp(_client_app(app), config)
    if mods:
        return OurApp([_mod(path) for path in mods], config)
    for key, values in {"run_config": config.run, "node_config": config.node}.items():
        if values:
            raise ConfigError(
                f"[client] {key} is read by app and mods, and there are none: "
                "name one, or leave it out"
            )
    return None


def _client_app(path: str) -> ClientApp:
    app = import_path("client app", path)
    if not isinstance(app, ClientApp):
        raise ConfigError(
            f"client app '{path}' is a {type(app).__name__}, not a flwr.clientapp.ClientApp"
        )
    if is_of_client_fn(app):
        raise ConfigError(
            f"client app '{path}' is a ClientApp(client_fn=…), of Client or NumPyClient, "
            "which does not run here; write functions for @app.train() and "
            "@app.evaluate(), as Flower has them since 1.21"
        )
    return app


def _mod(path: str) -> Any:
    mod = import_path("mod", path)
    if not callable(mod):
        raise ConfigError(
            f"mod '{path}' is a {type(mod).__name__}, "
            "not a function (message, context, call_next)"
        )
    if inspect.isclass(mod):
        raise ConfigError(
            f"mod '{path}' is a class; name an object of it: write "
            f"my_mod = {mod.__name__}(…) in a module of yours, and give its import path"
        )
    if not _takes_three(mod):
        raise ConfigError(
            f"mod '{path}' does not take (message, context, call_next); "
            "a function that makes a mod is no mod: name what it returns"
        )
    return mod


def _takes_three(mod: Any) -> bool:
    """Return whether a mod can be called with a message, a context and the next app."""
    try:
        signature = inspect.signature(mod)
    # What has no signature that Python can read is tried when it is called.
    except (TypeError, ValueError):
        return True
    try:
        signature.bind(None, None, None)
    except TypeError:
        return False
    return True


class UserApp:
    """A ClientApp that answers the tasks of simulated clients.

    reads_plan: whether it trains by the plan; a user's own reads the strategy's config.
    """

    reads_plan = False

    def __init__(self, app: ClientApp, config: AppConfig) -> None:
        """Take the app, and what it is told."""
        self.app = app
        self.config = config

    def __call__(self, runner: Runner, task: Task, held: Held | None) -> Outcome:
        """Return what the app answers. Raises ClientError when its reply cannot be carried."""
        enter()
        begun = time.perf_counter()
        context = _context(runner, task, self.config)
        reply = self.app(_message(runner, task, held), context)
        # Whatever a user's function returns comes through Flower's unchanged.
        if not isinstance(reply, Message):
            raise ClientError(
                f"client {task.client}: the app's {task.kind} function returned "
                f"{type(reply).__name__}; it must return a Message(…, reply_to=…)"
            )
        if reply.has_error():
            raise ClientError(f"client {task.client}: {reply.error.reason}")
        train_s = time.perf_counter() - begun
        name = None
        if task.trains and held is not None:
            name = model_name(runner.layout, reply.content, _arrays(task))
        begun = time.perf_counter()
        outcome = Outcome(task.client, state=context.state, train_s=train_s)
        if held is None or name is None:
            answer = AppAnswer(pack(reply.content))
            return replace(outcome, answer=answer)
        payload, kept = _encoded(runner, task, held, reply.content, name)
        return replace(
            outcome,
            payload=payload,
            answer=_beside(task, reply.content, name),
            encode_s=time.perf_counter() - begun,
            kept=kept,
        )


class OurApp(UserApp):
    """Our local training as a ClientApp behind mods; one runner and one task at a time."""

    reads_plan = True

    def __init__(self, mods: list[Any], config: AppConfig) -> None:
        """Take the mods, outermost first, and what they are told."""
        super().__init__(ClientApp(mods=mods), config)
        self.app.train()(self._train)
        self.app.evaluate()(self._evaluate)
        self.runner: Runner
        self.task: Task

    def __call__(self, runner: Runner, task: Task, held: Held | None) -> Outcome:
        """Return what our training answers. Raises ClientError."""
        # Flower calls `_train` without either, so they wait here for it.
        self.runner = runner
        self.task = task
        return super().__call__(runner, task, held)

    def _train(self, message: Message, context: Context) -> Message:
        runner, client = self.runner, self.task.client
        start = _model(runner, message)
        data = runner.tensors(client)
        update = train(
            runner.module, runner.layout, self.task.plan, start, data, client
        )
        end = State(
            start.floats + update.difference.floats,
            start.integers + update.difference.integers,
        )
        metrics = MetricRecord(
            {EXAMPLES: update.examples, "train_loss": update.train_loss}
        )
        # Under the name that the strategy knows its model by.
        arrays = {_arrays(self.task): to_record(runner.layout, end)}
        content = RecordDict({**arrays, "metrics": metrics})
        return Message(content, reply_to=message)

    def _evaluate(self, message: Message, context: Context) -> Message:
        runner = self.runner
        write_state(runner.module, runner.layout, _model(runner, message))
        data = runner.tensors(self.task.client, held_out=True)
        score = evaluate(runner.module, data)
        metrics = MetricRecord(
            {EXAMPLES: score.samples, "loss": score.loss, "accuracy": score.accuracy}
        )
        return Message(RecordDict({"metrics": metrics}), reply_to=message)


class _Config(dict[str, Any]):
    """A config of an app's context, which says where an app finds a key that is missing."""

    def __init__(self, name: str, values: Mapping[str, Any]) -> None:
        """Take the values. name: of the config, in ``[client]`` and in the context."""
        super().__init__(values)
        self.name = name

    def __missing__(self, key: str) -> Any:
        raise ClientError(
            f"the app reads context.{self.name}['{key}'], which [client.{self.name}] "
            "does not have: set it there, or read a default by .get()"
        )


def _context(runner: Runner, task: Task, config: AppConfig) -> Context:
    """Return the node's context, with a copy of its state: it is kept only if the app succeeds."""
    state = RecordDict()
    if task.state is not None:
        state = copy.deepcopy(task.state)
    node_config = {
        **of_client(config.node, task.client),
        "partition-id": task.client,
        "num-partitions": len(runner.population.clients),
    }
    return Context(
        run_id=1,
        node_id=task.client,
        node_config=_Config("node_config", node_config),
        state=state,
        run_config=_Config("run_config", config.run),
    )


def _message(runner: Runner, task: Task, held: Held | None) -> Message:
    envelope = task.envelope
    assert envelope is not None
    content = unpack(envelope.records)
    if held is not None:
        content[_arrays(task)] = to_record(runner.layout, held.state)
    message = Message(
        content,
        dst_node_id=task.client,
        message_type=task.kind,
        group_id=envelope.group,
    )
    give_id(message, envelope.message)
    return message


def _arrays(task: Task) -> str:
    """Return the name of the model's record in a task's message."""
    assert task.envelope is not None
    return task.envelope.arrays or ""


def _model(runner: Runner, message: Message) -> State:
    name = model_name(runner.layout, message.content)
    if name is None:
        raise ClientError("the message has no model, which our training needs")
    return to_state(runner.layout, message.content.array_records[name])


def _encoded(
    runner: Runner, task: Task, held: Held, records: RecordDict, name: str
) -> tuple[bytes, dict[str, bytes]]:
    """Return an app's update as a payload, and the digests of what its client keeps.

    name: of its record in the reply.
    """
    start = held.state
    end = to_state(runner.layout, records.array_records[name])
    difference = State(end.floats - start.floats, end.integers - start.integers)
    said = report.read(task.client, records.metric_records)
    contribution = Contribution(
        difference, said.examples, said.train_loss, said.metrics, said.records
    )
    return runner.reply(task, held, contribution)


def _beside(task: Task, records: RecordDict, name: str) -> AppAnswer | None:
    """Return what an update's payload does not carry of a reply; None: nothing."""
    beside = records_beside(records, name, _arrays(task))
    if beside is None:
        return None
    return AppAnswer(pack(beside), name)
