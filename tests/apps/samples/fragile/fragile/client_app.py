import os
import random
import signal
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.query()
def query(msg: Message, context: Context):
    count = 1 + context.state.get("count", ConfigRecord({"n": 0}))["n"]
    context.state["count"] = ConfigRecord({"n": count})
    marker = context.run_config["marker"]
    if marker and count == 2 and not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    drawn = MetricRecord({"count": count, "drawn": random.random()})
    return Message(RecordDict({"metrics": drawn}), reply_to=msg)
