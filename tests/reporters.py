"""ClientApps that report something of their own, by import path: ``tests.reporters:name``."""

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

from tests.faults import moved


def app_of(train: Any, evaluate: Any = None) -> ClientApp:
    """Return an app whose client k moves each value by k, and reports as the functions say."""
    app = ClientApp()

    @app.train()
    def train_client(message: Message, context: Context) -> Message:
        client = int(context.node_config["partition-id"])
        arrays = {n: Array(v) for n, v in moved(message, client).items()}
        name = next(iter(message.content.array_records))
        records: dict[str, Any] = {name: ArrayRecord(arrays)}
        report = train(client)
        if not any(isinstance(value, dict) for value in report.values()):
            report = {"metrics": report}
        for record, metrics in report.items():
            records[record] = MetricRecord(metrics)
        return Message(RecordDict(records), reply_to=message)

    @app.evaluate()
    def evaluate_client(message: Message, context: Context) -> Message:
        client = int(context.node_config["partition-id"])
        metrics = MetricRecord(evaluate(client))
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    return app


WEIGHTS = (0.2, 0.3, 0.5)


def fractions(client):
    return {"num-examples": WEIGHTS[client]}


def sizes(client):
    return {"size": client + 0.5, "gain": 2.5}


def no_auc(client):
    auc = float("nan") if client == 1 else 0.5 + client / 4
    return {"num-examples": 4, "auc": auc, "train_loss": 1 + client}


def endless(client):
    return {"num-examples": 4, "perplexity": 1e200, "train_loss": float("inf")}


def liar(client):
    if client == 1:
        return {"num-examples": 4, "train_loss": [1.0, 2.0]}
    return {"num-examples": 4, "train_loss": 0.5}


def boaster(client):
    loss = -1e38 if client == 1 else 0.5 + client
    return {"num-examples": 4, "train_loss": loss}


def two_records(client):
    return {
        "shape": {"num-examples": 1.5, "at": 2**62 + 1 + client},
        "more": {"at": [1, 2**60 + 1]},
    }


def evaluates(client):
    return {"num-examples": 2, "eval_f1": 0.25 * (client + 1)}


def nothing_to_evaluate(client):
    raise ValueError("no validation data")


by_fractions = app_of(fractions, nothing_to_evaluate)
by_size = app_of(sizes, evaluates)
without_auc = app_of(no_auc, evaluates)
beyond = app_of(endless, evaluates)
with_a_boaster = app_of(boaster)
with_lists = app_of(liar, evaluates)
in_records = app_of(two_records)
negative = app_of(lambda client: {"num-examples": -1.5})
in_list = app_of(lambda client: {"num-examples": [4]})
tiny = app_of(lambda client: {"num-examples": 1e-7})

forgets = ClientApp()


@forgets.train()
def _forgets(message: Message, context: Context) -> Any:
    return None


backwards = ClientApp()


@backwards.train()
def _backwards(message: Message, context: Context) -> Message:
    arrays = {n: Array(v) for n, v in sorted(moved(message, 1).items(), reverse=True)}
    metrics = MetricRecord({"num-examples": 3})
    content = RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics})
    return Message(content, reply_to=message)


def _client(context: Context) -> Any:
    return None


old_style = ClientApp(client_fn=_client)


class SeesRecords(FedAvg):
    """Prints what a reply holds, and adds up the model by itself."""

    def __init__(self) -> None:
        super().__init__(arrayrecord_key="model", fraction_evaluate=0.0)

    def configure_train(self, server_round, arrays, config, grid):
        self.arrays = arrays
        record = ConfigRecord(dict(config))
        return super().configure_train(server_round, arrays, record, grid)

    def aggregate_train(self, server_round, replies):
        contents = [reply.content for reply in replies]
        print(
            sorted(contents[0]), contents[2]["shape"]["at"], contents[0]["more"]["at"]
        )
        weights = [content["shape"]["num-examples"] for content in contents]
        assert weights == [1.5] * 3
        model = contents[0]["model"]
        assert all(np.isfinite(array.numpy()).all() for array in model.values())
        return model, MetricRecord({"mine": 0.125})
