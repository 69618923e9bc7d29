import math

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from lang.task import Classifier, evaluate, load_data, train

app = ClientApp()


def _model(msg):
    model = Classifier()
    model.load_state_dict(msg.content["arrays"].to_torch_state_dict())
    return model


@app.train()
def train_message(msg: Message, context: Context) -> Message:
    model = _model(msg)
    loader, _ = load_data(context.node_config["partition-id"])
    loss, norm = train(model, loader, context.run_config["learning-rate"])
    metrics = {
        "num-examples": len(loader.dataset),
        "perplexity": math.exp(loss),
        "largest_grad_norm": norm,
    }
    content = {
        "arrays": ArrayRecord(model.state_dict()),
        "metrics": MetricRecord(metrics),
    }
    return Message(RecordDict(content), reply_to=msg)


@app.evaluate()
def evaluate_message(msg: Message, context: Context) -> Message:
    _, loader = load_data(context.node_config["partition-id"])
    loss, counts = evaluate(_model(msg), loader)
    metrics = {
        "num-examples": len(loader.dataset),
        "loss": loss,
        # Hits, false alarms and misses, whose sums give an F1 over all nodes.
        "counts": counts,
    }
    return Message(RecordDict({"metrics": MetricRecord(metrics)}), reply_to=msg)
