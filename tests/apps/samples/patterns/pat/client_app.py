"""A client of any model: each array moves towards a value of its node's own."""

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


def _target(partition):
    return np.float32(np.sin(1 + partition))


def _distance(record, partition):
    gaps = [np.abs(a.numpy() - _target(partition)).mean() for a in record.values()]
    return float(np.mean(gaps))


@app.train()
def train(msg: Message, context: Context):
    partition = context.node_config["partition-id"]
    lr = msg.content["config"]["lr"]
    noise = context.run_config.get("noise", 0.0)
    moved, norms = {}, []
    for name, array in msg.content["arrays"].items():
        before = array.numpy()
        drawn = noise * np.random.normal(size=before.shape)
        step = np.float32(lr) * (_target(partition) - before) + drawn
        moved[name] = Array((before + step).astype(np.float32))
        norms.append(float(np.linalg.norm(step)))
    metrics = {
        "num-examples": 10 * (partition + 1),
        "train_loss": _distance(msg.content["arrays"], partition),
        # More than a strategy of Flower's asks for: a share, a norm and a list.
        "share": 0.25 + partition,
        "grad_norm": max(norms),
        "by_layer": norms,
    }
    content = {"arrays": ArrayRecord(moved), "metrics": MetricRecord(metrics)}
    return Message(RecordDict(content), reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context):
    partition = context.node_config["partition-id"]
    loss = _distance(msg.content["arrays"], partition)
    metrics = {"eval_loss": loss, "closeness": 1 / (1 + loss), "num-examples": 5}
    return Message(RecordDict({"metrics": MetricRecord(metrics)}), reply_to=msg)
