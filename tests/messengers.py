"""Apps and strategies whose messages hold more than a model: ``tests.messengers:name``."""

from typing import Any

import numpy as np
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from fedlearn.strategies.fedavg import FedAvg as OurFedAvg

# What strategies and apps saw, in order: runs of tests stay in this process.
SEEN: list[Any] = []


def model_of(message: Message, name: str = "arrays") -> dict[str, np.ndarray]:
    return {k: a.numpy() for k, a in message.content.array_records[name].items()}


def record(arrays: dict[str, np.ndarray]) -> ArrayRecord:
    return ArrayRecord({name: Array(values) for name, values in arrays.items()})


def moved(message: Message, by: float = 1.0, name: str = "arrays") -> ArrayRecord:
    arrays = model_of(message, name)
    return record({k: v + np.float32(by) for k, v in arrays.items()})


def update(message: Message, by: float = 1.0, **others: Any) -> Message:
    metrics = MetricRecord({"num-examples": 4})
    records = {"arrays": moved(message, by), "metrics": metrics, **others}
    return Message(RecordDict(records), reply_to=message)


def client(context: Context) -> int:
    return int(context.node_config["partition-id"])


# --- an app that reads its configs

configured = ClientApp()


@configured.train()
def _configured(message: Message, context: Context) -> Message:
    config = message.content.config_records["config"]
    own = (context.run_config["deep.step"], context.node_config["place"])
    SEEN.append((client(context), *own, config["mu"]))
    step: Any = context.run_config["deep.step"]
    return update(message, step)


@configured.evaluate()
def _configured_evaluation(message: Message, context: Context) -> Message:
    config = message.content.config_records["config"]
    share: Any = config["share"]
    metrics = MetricRecord({"num-examples": 2, "share": share})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


# --- an app that answers all kinds of messages with all kinds of records

talker = ClientApp()


@talker.query("size")
def _size(message: Message, context: Context) -> Message:
    bins = message.content.config_records["ask"]["bins"]
    counts = message.content.array_records["edges"]["e"].numpy() * client(context)
    records: dict[str, Any] = {
        "counts": ArrayRecord({"c": Array(counts)}),
        "who": ConfigRecord({"bins": bins, "raw": b"\x00\xff"}),
        "n": MetricRecord({"nan": float("nan")}),
    }
    return Message(RecordDict(records), reply_to=message)


@talker.train()
def _talk(message: Message, context: Context) -> Message:
    control = message.content.array_records.get("control")
    doubled: dict[str, Any] = {}
    if control is not None:
        # Of the model's own layout, as SCAFFOLD's control variates are.
        doubled["control"] = moved(message, client(context), "control")
    about = ConfigRecord({"text": "x" * 1000, "group": message.metadata.group_id})
    return update(message, about=about, **doubled)


@talker.train("last")
def _last_layer(message: Message, context: Context) -> Message:
    arrays = model_of(message)
    name = next(iter(arrays))
    part = record({name: arrays[name] + np.float32(2)})
    metrics = MetricRecord({"num-examples": 4})
    records = RecordDict({"arrays": part, "metrics": metrics})
    return Message(records, reply_to=message)


@talker.evaluate()
def _evaluated(message: Message, context: Context) -> Message:
    metrics = MetricRecord({"num-examples": 3, "auc": 0.25, "bad": float("inf")})
    matrix = ArrayRecord({"m": Array(np.full((2, 2), client(context), np.int16))})
    records: dict[str, Any] = {"confusion": matrix, "scores": metrics}
    return Message(RecordDict(records), reply_to=message)


class Base(FedAvg):
    def __init__(self, **options: Any) -> None:
        super().__init__(**{"fraction_evaluate": 0.0, **options})


class Asks(Base):
    """Asks all clients, without a model, before it trains them."""

    def configure_train(self, server_round, arrays, config, grid):
        edges = ArrayRecord({"e": Array(np.arange(3.0))})
        questions = [
            Message(
                RecordDict({"ask": ConfigRecord({"bins": 7}), "edges": edges}),
                dst_node_id=node,
                message_type="query.size",
            )
            for node in grid.get_node_ids()
        ]
        for reply in grid.send_and_receive(questions):
            content = reply.content
            counts = content.array_records["counts"]["c"].numpy().tolist()
            who = content.config_records["who"]
            nan = content.metric_records["n"]["nan"]
            SEEN.append((counts, who["bins"], who["raw"], nan != nan))
        return super().configure_train(server_round, arrays, config, grid)


class Controls(Base):
    """Sends a second ArrayRecord of the model's layout, and gets it back."""

    def configure_train(self, server_round, arrays, config, grid):
        zeros = {k: np.zeros_like(a.numpy()) for k, a in arrays.items()}
        for message in super().configure_train(server_round, arrays, config, grid):
            records = {**message.content, "control": record(zeros)}
            node = message.metadata.dst_node_id
            yield Message(RecordDict(records), node, "train", group_id="blue")

    def aggregate_train(self, server_round, replies):
        replies = list(replies)
        for reply in replies:
            content = reply.content
            controls = content.array_records["control"].values()
            ends = {float(a.numpy().max()) for a in controls}
            about = content.config_records["about"]
            node = reply.metadata.src_node_id
            SEEN.append((node, list(content), ends, about["group"]))
            del content["control"]
        return super().aggregate_train(server_round, replies)


class Parts(Base):
    """Has clients train the first tensor alone."""

    def configure_train(self, server_round, arrays, config, grid):
        for message in super().configure_train(server_round, arrays, config, grid):
            node = message.metadata.dst_node_id
            yield Message(message.content, node, "train.last")


class Looks(Base):
    """Looks at what evaluations hold."""

    def aggregate_evaluate(self, server_round, replies):
        for reply in replies:
            matrix = reply.content.array_records["confusion"]["m"].numpy()
            scores = dict(reply.content.metric_records["scores"])
            SEEN.append((matrix.dtype.name, int(matrix.sum()), scores))
        return None


class Pushes(Base):
    """Pushes two messages to a client and one to another, and pulls them apart."""

    def configure_train(self, server_round, arrays, config, grid):
        # Not in the order of nodes.
        pairs = [(2, 1.0), (0, 5.0), (2, 3.0)]
        messages = []
        for node, step in pairs:
            records = {"arrays": arrays, "config": ConfigRecord({"step": step})}
            messages.append(Message(RecordDict(records), node, "train"))
        # The same object twice is two messages.
        ids = list(grid.push_messages([*messages, messages[1]]))
        replies = {}
        for name in reversed(ids):
            (reply,) = grid.pull_messages([name])
            replies[name] = reply
            assert reply.metadata.reply_to_message_id == name
        steps = [float(replies[i].content.metric_records["m"]["step"]) for i in ids]
        SEEN.append((steps, len(set(ids)), list(grid.pull_messages(ids))))
        return super().configure_train(server_round, arrays, config, grid)


stepper = ClientApp()


@stepper.train()
def _step(message: Message, context: Context) -> Message:
    step: Any = message.content.config_records["config"].get("step", 0.5)
    metrics = MetricRecord({"num-examples": 4, "step": step})
    records: dict[str, Any] = {"arrays": moved(message, step), "m": metrics}
    return Message(RecordDict(records), reply_to=message)


class EverySecond(Base):
    """Makes a model in even rounds alone, of two rounds' replies."""

    def aggregate_train(self, server_round, replies):
        aggregate = super().aggregate_train(server_round, replies)
        return aggregate if server_round % 2 == 0 else (None, aggregate[1])


class Never(Base):
    def aggregate_train(self, server_round, replies):
        return None, None


class Queries(Base):
    """Asks what only an app of the user's answers."""

    def configure_train(self, server_round, arrays, config, grid):
        for message in super().configure_train(server_round, arrays, config, grid):
            yield Message(message.content, message.metadata.dst_node_id, "query")


# --- states

keeper = ClientApp()


@keeper.train()
def _keep(message: Message, context: Context) -> Message:
    before = context.state.array_records.get("kept")
    if before is not None:
        SEEN.append([array.numpy().tolist() for array in before.values()])
    words = Array(np.array(["ä", "bc"]))
    waves = Array(np.array([1 + 2j]))
    context.state["kept"] = ArrayRecord({"w": words, "z": waves})
    return update(message)


broken_state = ClientApp()


@broken_state.train()
def _broken(message: Message, context: Context) -> Message:
    if client(context) == 1:
        # Its bytes are no array.
        odd = Array("float32", (2,), "numpy.ndarray", b"nothing")
        context.state["odd"] = ArrayRecord({"a": odd})
    return update(message)


def logs(message: Message, context: Context, call_next: Any) -> Message:
    from logging import INFO

    from flwr.common.logger import log

    log(INFO, "a mod of client %d says so", client(context))
    return call_next(message, context)


def makes_a_mod(clip: float) -> Any:
    return logs


class OursInParts(OurFedAvg):
    """Ours, whose clients answer with a part of the model."""

    def configure_train(self, server_round, arrays, config, grid):
        for message in super().configure_train(server_round, arrays, config, grid):
            node = message.metadata.dst_node_id
            yield Message(message.content, node, "train.last")
