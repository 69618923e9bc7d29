from flwr.app import Context
from flwr.server import ServerAppComponents, ServerConfig
from flwr.serverapp import ServerApp


def server_fn(context: Context):
    return ServerAppComponents(config=ServerConfig(num_rounds=1))


app = ServerApp(server_fn=server_fn)
