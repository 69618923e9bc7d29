import random

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAdagrad

from adv.task import initial, load_data, loss_and_accuracy

app = ServerApp()


class Halving(FedAdagrad):
    """FedAdagrad that halves the clients' rate at round 3, and remembers its best model."""

    def start(self, grid, initial_arrays, num_rounds=3, **options):
        self.num_rounds = num_rounds
        self.best = (0.0, 0)
        self.history = []
        return super().start(grid, initial_arrays, num_rounds, **options)

    def configure_train(self, server_round, arrays, config, grid):
        if server_round == self.num_rounds - 1:
            config["lr"] = config["lr"] / 2
        self.history.append(random.random())
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_evaluate(self, server_round, replies):
        metrics = super().aggregate_evaluate(server_round, replies)
        if metrics is not None:
            self.best = max(self.best, (metrics["eval_acc"], server_round))
        return metrics


def evaluate_on_server(server_round, arrays):
    model = {name: array.numpy() for name, array in arrays.items()}
    loss, accuracy = loss_and_accuracy(model, *load_data(500))
    return MetricRecord({"central_loss": loss, "central_acc": accuracy})


@app.main()
def main(grid: Grid, context: Context) -> None:
    arrays = ArrayRecord({name: Array(value) for name, value in initial().items()})
    strategy = Halving(fraction_train=0.5, fraction_evaluate=1.0, eta=0.1)
    strategy.start(
        grid,
        arrays,
        context.run_config["num-server-rounds"],
        train_config=ConfigRecord({"lr": context.run_config["learning-rate"]}),
        evaluate_fn=evaluate_on_server,
    )
    print("best", strategy.best, len(strategy.history))
