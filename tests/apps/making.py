"""Small apps that tests write: any ServerApp and any ClientApp, in a folder of their own."""

import json

from fedlearn.apps import start
from fedlearn.apps.api import run_app
from fedlearn.apps.options import read

PROJECT = """
[project]
name = "odd"
version = "1.0"

[tool.flwr.app]
publisher = "me"

[tool.flwr.app.components]
serverapp = "{package}.server_app:app"
clientapp = "{package}.client_app:app"

[tool.flwr.app.config]
mark = 0

[tool.flwr.federations.local]
options.num-supernodes = {nodes}
"""

# One round of queries, whose replies the test's own lines look at.
SERVER = """
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()


def asked(grid, nodes, **config):
    content = RecordDict({"c": ConfigRecord(config)})
    return [Message(content, node, "query") for node in nodes]


@app.main()
def main(grid, context):
    nodes = list(grid.get_node_ids())
"""

CLIENT = """
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.query()
def query(msg, context):
    me = context.node_config["partition-id"]
    metrics = {"me": me}
"""

ANSWER = """
    return Message(RecordDict({"m": MetricRecord(metrics)}), reply_to=msg)
"""

# Each node is asked once, and then once more.
TWICE = """
    for turn in (1, 2):
        for reply in grid.send_and_receive(asked(grid, nodes, turn=turn)):
            failed = reply.has_error()
            print("reply", failed, reply.error.reason if failed else dict(reply.content["m"]))
"""


def write(folder, server=TWICE, client="", nodes=2, package="odd"):
    """Write an app and return its folder. server, client: lines of their functions."""
    home = folder / package
    home.mkdir(parents=True)
    (home / "__init__.py").touch()
    project = PROJECT.format(package=package, nodes=nodes)
    (folder / "pyproject.toml").write_text(project)
    (home / "server_app.py").write_text(SERVER + server)
    (home / "client_app.py").write_text(CLIENT + client + ANSWER)
    return folder


def ran(folder, out, sets=(), resume=False, shown=None, **options):
    """Run an app and return its summary. shown: a list that takes what a terminal shows."""
    started = start.of_options(folder, options=read(sets), **options)
    quiet = shown is None
    show = print if shown is None else shown.append
    return run_app(started, out, resume=resume, quiet=quiet, show=show).summary


def lines(out):
    """Return the lines of a run."""
    texts = (out / "metrics.jsonl").read_text().splitlines()
    return [json.loads(text) for text in texts]
