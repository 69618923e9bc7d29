import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from quick.task import Net, load_data
from quick.task import test as test_fn
from quick.task import train as train_fn

app = ClientApp()


@app.train()
def train(msg: Message, context: Context):
    model = Net()
    model.load_state_dict(msg.content["arrays"].to_torch_state_dict())
    partition_id = context.node_config["partition-id"]
    assert context.node_config["num-partitions"] > partition_id
    batch_size = context.run_config["batch-size"]
    workers = context.run_config["loader-workers"]
    loader, _ = load_data(partition_id, batch_size, workers)
    epochs = context.run_config["local-epochs"]
    loss = train_fn(model, loader, epochs, msg.content["config"]["lr"])
    print(f"node {partition_id} trained")
    metrics = {"train_loss": loss, "num-examples": len(loader.dataset)}
    content = RecordDict(
        {"arrays": ArrayRecord(model.state_dict()), "metrics": MetricRecord(metrics)}
    )
    return Message(content=content, reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context):
    model = Net()
    model.load_state_dict(msg.content["arrays"].to_torch_state_dict())
    batch_size = context.run_config["batch-size"]
    _, loader = load_data(context.node_config["partition-id"], batch_size)
    loss, accuracy = test_fn(model, loader)
    metrics = {"eval_loss": loss, "eval_acc": accuracy, "num-examples": 32}
    return Message(RecordDict({"metrics": MetricRecord(metrics)}), reply_to=msg)


assert torch is not None
