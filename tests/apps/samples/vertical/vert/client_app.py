import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


def _features(context):
    return np.random.default_rng(context.node_config["partition-id"]).normal(
        size=(30, 4)
    )


def _weights(context):
    if "model" not in context.state:
        context.state["model"] = ArrayRecord({"w": Array(np.full((4, 2), 0.1))})
    return context.state["model"]["w"].numpy()


@app.query("embed")
def embed(msg: Message, context: Context):
    values = _features(context) @ _weights(context)
    content = {
        "embedding": ArrayRecord({"values": Array(values)}),
        "about": ArrayRecord({"mean": Array(values.mean(0))}),
    }
    return Message(RecordDict(content), reply_to=msg)


@app.train("apply")
def apply(msg: Message, context: Context):
    gradient = msg.content["gradient"]["values"].numpy()
    weights = _weights(context)
    weights -= context.run_config["lr"] * _features(context).T @ gradient / 30
    context.state["model"] = ArrayRecord({"w": Array(weights)})
    norm = MetricRecord({"norm": float(np.abs(weights).sum())})
    return Message(RecordDict({"norm": norm}), reply_to=msg)
