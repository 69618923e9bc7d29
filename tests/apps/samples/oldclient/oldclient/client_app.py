import numpy as np
from flwr.app import Context
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp


class Client(NumPyClient):
    def __init__(self, partition):
        self.partition = partition

    def fit(self, parameters, config):
        return [p + self.partition for p in parameters], 1, {}

    def evaluate(self, parameters, config):
        return float(np.sum(parameters[0])), 1, {}


def client_fn(context: Context):
    return Client(context.node_config["partition-id"]).to_client()


app = ClientApp(client_fn)
