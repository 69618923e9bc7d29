import time

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    for _ in range(context.run_config["rounds"]):
        content = RecordDict({"when": ConfigRecord({"now": time.time()})})
        nodes = grid.get_node_ids()
        grid.send_and_receive([Message(content, node, "query") for node in nodes])
