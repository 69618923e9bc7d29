import numpy as np
from flwr.app import Context
from flwr.common import ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server import LegacyContext, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.server.workflow import DefaultWorkflow
from flwr.serverapp import Grid, ServerApp

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    begin = ndarrays_to_parameters([np.zeros(2)])
    strategy = FedAvg(min_available_clients=2, initial_parameters=begin)
    old = LegacyContext(context, ServerConfig(num_rounds=2), strategy)
    DefaultWorkflow()(grid, old)
    print("losses", old.history.losses_distributed, parameters_to_ndarrays(begin))
