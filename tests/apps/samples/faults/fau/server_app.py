import numpy as np
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


class Careful(FedAvg):
    """Leaves out what is not finite."""

    def aggregate_train(self, server_round, replies):
        good = [r for r in replies if r.has_error() or self._finite(r)]
        return super().aggregate_train(server_round, good)

    def _finite(self, reply):
        arrays = reply.content["arrays"].to_numpy_ndarrays()
        return all(np.isfinite(array).all() for array in arrays)


@app.main()
def main(grid: Grid, context: Context) -> None:
    strategy = Careful(fraction_evaluate=0.0)
    strategy.start(grid, ArrayRecord([np.ones(3)]), context.run_config["rounds"])
