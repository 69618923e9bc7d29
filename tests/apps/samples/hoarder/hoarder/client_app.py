from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.query()
def query(msg: Message, context: Context):
    context.state["large"] = ConfigRecord({"number": 2**70})
    return Message(RecordDict(), reply_to=msg)
