from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    nodes = grid.get_node_ids()
    grid.send_and_receive([Message(RecordDict(), n, "query") for n in nodes])
