import numpy as np
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.query()
def query(msg: Message, context: Context):
    edges = np.array(msg.content["query"]["edges"])
    partition = context.node_config["partition-id"]
    values = np.random.default_rng(partition).normal(partition, 1, 50)
    counts, _ = np.histogram(values, edges)
    metrics = MetricRecord({"counts": counts.tolist(), "stamp": 1764466822123456789})
    about = ConfigRecord({"name": f"node {partition}", "raw": b"\x00\xff", "ok": True})
    return Message(RecordDict({"counts": metrics, "about": about}), reply_to=msg)


@app.query("mean")
def mean(msg: Message, context: Context):
    values = MetricRecord({"mean": float(np.random.normal())})
    return Message(RecordDict({"mean": values}), reply_to=msg)
