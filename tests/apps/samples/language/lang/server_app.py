from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from lang.task import Classifier, evaluate, load_data

app = ServerApp()


def f1(counts):
    hits, false, missed = counts
    return 2 * hits / max(1, 2 * hits + false + missed)


def over_nodes(records, weighted_by_key):
    """An F1 over all nodes' texts, which no mean of theirs is, and each node's loss."""
    metrics = [record["metrics"] for record in records]
    columns = zip(*(m["counts"] for m in metrics), strict=True)
    counts = [sum(column) for column in columns]
    losses = [m["loss"] for m in metrics]
    return MetricRecord({"micro_f1": f1(counts), "node_losses": losses})


def on_server(server_round, arrays):
    model = Classifier()
    model.load_state_dict(arrays.to_torch_state_dict())
    loss, counts = evaluate(model, load_data(1000)[1])
    return MetricRecord({"held_out_loss": loss, "held_out_f1": f1(counts)})


@app.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    strategy = FedAvg(
        fraction_train=config["fraction-train"],
        fraction_evaluate=config["fraction-evaluate"],
        evaluate_metrics_aggr_fn=over_nodes,
    )
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(Classifier().state_dict()),
        num_rounds=config["num-server-rounds"],
        evaluate_fn=on_server,
    )
