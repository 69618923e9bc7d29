import json

import numpy as np
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


class Bagging(FedAvg):
    """All new trees of a round join the model: its one array grows."""

    def configure_train(self, server_round, arrays, config, grid):
        self.trees = _trees(arrays)
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round, replies):
        for reply in replies:
            self.trees.append(_trees(reply.content["arrays"])[-1])
        text = json.dumps(self.trees).encode()
        return ArrayRecord([np.frombuffer(text, np.uint8)]), None


def _trees(record):
    text = record["0"].numpy().tobytes()
    return json.loads(text) if text else []


@app.main()
def main(grid: Grid, context: Context) -> None:
    arrays = ArrayRecord([np.frombuffer(b"", np.uint8)])
    Bagging().start(grid, arrays, context.run_config["rounds"])
