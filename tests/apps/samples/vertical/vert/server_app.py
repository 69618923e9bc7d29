import json
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    head = np.random.normal(size=6)
    target = np.random.default_rng(9).normal(size=30)
    losses = []
    nodes = sorted(grid.get_node_ids())
    for _ in range(context.run_config["steps"]):
        replies = grid.send_and_receive(
            [Message(RecordDict(), node, "query.embed") for node in nodes]
        )
        replies = sorted(replies, key=lambda reply: reply.metadata.src_node_id)
        parts = [reply.content["embedding"]["values"].numpy() for reply in replies]
        error = np.concatenate(parts, 1) @ head - target
        losses.append(float((error**2).mean()))
        messages = []
        for place, node in enumerate(nodes):
            values = np.outer(error, head[2 * place : 2 * place + 2])
            record = ArrayRecord({"values": Array(values)})
            messages.append(
                Message(RecordDict({"gradient": record}), node, "train.apply")
            )
        norms = grid.send_and_receive(messages)
        losses += sorted(reply.content["norm"]["norm"] for reply in norms)
    if context.run_config["out"]:
        Path(context.run_config["out"]).write_text(json.dumps(losses))
