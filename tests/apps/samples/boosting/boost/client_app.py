import json

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


def data(partition):
    rng = np.random.default_rng(partition)
    x = rng.uniform(-1, 1, (50, 3))
    return x, np.sin(3 * x[:, 0]) + x[:, 1]


def trees_of(record):
    """Return the trees of a model, which is JSON in an array of bytes."""
    text = record["0"].numpy().tobytes()
    return json.loads(text) if text else []


def predict(trees, x):
    total = np.zeros(len(x))
    for column, cut, low, high in trees:
        total += np.where(x[:, column] < cut, low, high)
    return total


def stump(x, residual):
    best = None
    for column in range(x.shape[1]):
        for cut in np.quantile(x[:, column], [0.25, 0.5, 0.75]):
            below = x[:, column] < cut
            low, high = residual[below].mean(), residual[~below].mean()
            error = ((residual - np.where(below, low, high)) ** 2).sum()
            if best is None or error < best[0]:
                best = (error, column, float(cut), float(low) / 2, float(high) / 2)
    return list(best[1:])


@app.train()
def train(msg: Message, context: Context):
    trees = trees_of(msg.content["arrays"])
    x, y = data(context.node_config["partition-id"])
    trees.append(stump(x, y - predict(trees, x)))
    model = np.frombuffer(json.dumps(trees).encode(), dtype=np.uint8)
    metrics = MetricRecord({"num-examples": len(y)})
    content = {"arrays": ArrayRecord([model]), "metrics": metrics}
    return Message(RecordDict(content), reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context):
    x, y = data(context.node_config["partition-id"])
    error = float(((y - predict(trees_of(msg.content["arrays"]), x)) ** 2).mean())
    metrics = MetricRecord({"mse": error, "num-examples": len(y)})
    return Message(RecordDict({"metrics": metrics}), reply_to=msg)
