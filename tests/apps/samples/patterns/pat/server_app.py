import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp

from pat import strategies

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    arrays = ArrayRecord(
        {
            "w": Array(np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)),
            "b": Array(np.zeros(4, np.float32)),
        }
    )
    strategy = getattr(strategies, config["strategy"])()
    strategy.start(
        grid=grid,
        initial_arrays=arrays,
        num_rounds=config["num-server-rounds"],
        train_config=ConfigRecord({"lr": config["learning-rate"]}),
    )
    print("history", getattr(strategy, "history", None))
