"""Strategies that ask clients for something of their own: ``tests.askers:name``."""

from typing import ClassVar

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp.strategy import FedAvg


class Asks(FedAvg):
    """Sends each node of `nodes` a config of its own."""

    nodes: ClassVar[tuple[int, ...]] = (1, 2, 5)

    def configure_train(self, server_round, arrays, config, grid):
        return [
            Message(
                RecordDict(
                    {
                        "arrays": arrays,
                        "config": ConfigRecord({**config, **self.extra(place)}),
                    }
                ),
                message_type=MessageType.TRAIN,
                dst_node_id=node,
            )
            for place, node in enumerate(self.nodes)
        ]

    def extra(self, place):
        return {}


class Same(Asks):
    def extra(self, place):
        return {"epochs": 3, "batch-size": 20}


class EachItsOwn(Asks):
    def extra(self, place):
        return {"epochs": 1 + place, "momentum": 0.1 * place}


class Twice(Asks):
    nodes = (3, 0, 3)


class TwiceOtherwise(Twice):
    def extra(self, place):
        return {"lr": 0.1 + place}


class Elsewhere(Asks):
    nodes = (0, 12)


class Misspells(Asks):
    def extra(self, place):
        return {"epoch": 2, "stage": "fine"}
