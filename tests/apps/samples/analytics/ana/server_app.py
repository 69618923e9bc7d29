import json
import random
import time
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.serverapp import Grid, ServerApp

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    history = []
    for number in range(context.run_config["rounds"]):
        nodes = list(grid.get_node_ids())
        chosen = random.sample(nodes, 3)
        edges = [-2.0, 0.0, 1.0 + number, 6.0]
        messages = [
            Message(
                RecordDict({"query": ConfigRecord({"edges": edges})}),
                dst_node_id=node,
                message_type=MessageType.QUERY,
                group_id=f"exchange-{number}",
            )
            for node in chosen
        ]
        # Two questions to one node.
        messages.append(Message(RecordDict(), chosen[0], "query.mean"))
        ids = set(grid.push_messages(messages))
        replies = []
        while ids:
            found = list(grid.pull_messages(ids))
            replies += found
            ids -= {reply.metadata.reply_to_message_id for reply in found}
            if ids:
                time.sleep(0.01)
        for reply in replies:
            history.append(
                {
                    "node": reply.metadata.src_node_id,
                    "group": reply.metadata.group_id,
                    "type": reply.metadata.message_type,
                    "metrics": {
                        k: dict(v) for k, v in reply.content.metric_records.items()
                    },
                    "about": [dict(v) for v in reply.content.config_records.values()],
                }
            )
    history.sort(key=lambda e: (e["group"], e["node"], e["type"]))
    text = json.dumps(history, default=repr)
    if context.run_config["out"]:
        Path(context.run_config["out"]).write_text(text)
