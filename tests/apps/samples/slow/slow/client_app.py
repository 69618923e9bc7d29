import os
import time

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.query()
def query(msg: Message, context: Context):
    print("pid", os.getpid())
    time.sleep(context.run_config["seconds"])
    return Message(RecordDict(), reply_to=msg)
