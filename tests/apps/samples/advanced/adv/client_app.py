from logging import INFO

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common import log

from adv.task import load_data, loss_and_accuracy
from adv.task import train as train_fn


def speaking(msg, context, call_next):
    """Say what comes and goes; it logs as Flower's own mods do."""
    log(INFO, "mod saw %s", msg.metadata.message_type)
    return call_next(msg, context)


app = ClientApp(mods=[speaking])


@app.lifespan()
def lifespan(context: Context):
    print("lifespan begins")
    yield
    print("lifespan ends")


def _model(msg, context):
    model = {name: array.numpy() for name, array in msg.content["arrays"].items()}
    model["steps"] = model["steps"].astype(np.int64)
    if "head" in context.state:
        model["head"] = context.state["head"]["head"].numpy()
    return model


@app.train()
def train(msg: Message, context: Context):
    model = _model(msg, context)
    x, y = load_data(context.node_config["partition-id"])
    lr = msg.content["config"]["lr"]
    train_fn(model, x, y, lr, context.run_config["local-epochs"])
    context.state["head"] = ArrayRecord({"head": Array(model["head"])})
    loss, _ = loss_and_accuracy(model, x, y)
    arrays = ArrayRecord({name: Array(value) for name, value in model.items()})
    metrics = MetricRecord({"train_loss": loss, "num-examples": len(y), "lr": lr})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context):
    x, y = load_data(context.node_config["partition-id"])
    loss, accuracy = loss_and_accuracy(_model(msg, context), x, y)
    metrics = {"eval_loss": loss, "eval_acc": accuracy, "num-examples": len(y)}
    return Message(RecordDict({"metrics": MetricRecord(metrics)}), reply_to=msg)
