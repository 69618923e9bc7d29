from flwr.app import Context
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp


class Client(NumPyClient):
    def fit(self, parameters, config):
        return parameters, 1, {}


def client_fn(context: Context):
    return Client().to_client()


app = ClientApp(client_fn)
