import os
import sys

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(msg: Message, context: Context):
    partition = context.node_config["partition-id"]
    if partition == 1:
        raise KeyError("no such column")
    if partition == 2:
        sys.exit("enough")
    if partition == 3:
        os._exit(7)
    if partition == 4:
        return "no message"
    arrays = msg.content["arrays"].to_numpy_ndarrays()
    if partition == 5:
        arrays = [array * np.nan for array in arrays]
    metrics = MetricRecord({"num-examples": 1})
    content = {"arrays": ArrayRecord(arrays), "metrics": metrics}
    return Message(RecordDict(content), reply_to=msg)
