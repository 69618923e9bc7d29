import warnings

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


def _data(context):
    rng = np.random.default_rng(context.node_config["partition-id"])
    x = rng.normal(size=(40, 4))
    return x, (x @ [1.0, -2.0, 0.5, 0.0] > 0.3).astype(float)


def _loss(weights, bias, x, y):
    p = 1 / (1 + np.exp(-(x @ weights + bias)))
    return float(-np.mean(y * np.log(p + 1e-9) + (1 - y) * np.log(1 - p + 1e-9)))


@app.train()
def train(msg: Message, context: Context):
    weights, bias = msg.content["arrays"].to_numpy_ndarrays()
    x, y = _data(context)
    shrink = 0.999 if context.run_config["penalty"] == "l2" else 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(20):
            error = 1 / (1 + np.exp(-(x @ weights + bias))) - y
            weights = weights * shrink - 0.3 * x.T @ error / len(y)
            bias = bias - 0.3 * error.mean(keepdims=True)
    metrics = {"train_logloss": _loss(weights, bias, x, y), "num-examples": len(y)}
    content = {"arrays": ArrayRecord([weights, bias]), "metrics": MetricRecord(metrics)}
    return Message(RecordDict(content), reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context):
    weights, bias = msg.content["arrays"].to_numpy_ndarrays()
    x, y = _data(context)
    accuracy = float(((x @ weights + bias > 0) == (y > 0.5)).mean())
    metrics = {"test_accuracy": accuracy, "num-examples": len(y)}
    return Message(RecordDict({"metrics": MetricRecord(metrics)}), reply_to=msg)
