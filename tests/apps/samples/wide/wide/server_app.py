import numpy as np
from flwr.app import Array, ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    arrays = ArrayRecord({"w": Array(np.zeros((100, 200), np.float32))})
    strategy = FedAvg(fraction_evaluate=0.0)
    strategy.start(grid, arrays, context.run_config["num-server-rounds"])
