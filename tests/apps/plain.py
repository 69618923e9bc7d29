"""The oracle of `fedlearn.apps`: Flower's Grid over a ClientApp that is called directly.

No processes, no bytes, no journal: each message is answered where it is pushed. Seeds are
those of `fedlearn.apps`, so an app that draws gives the same.
"""

import copy
import random
from importlib import import_module
from pathlib import Path

import numpy as np
from flwr.app import Context, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result
from flwr.supercore.run import Run

from fedlearn.apps import private, project
from fedlearn.apps.loading import on_path
from fedlearn.apps.work import FIRST_NODE
from fedlearn.seeds import derive, isolated

SAMPLES = Path(__file__).with_name("samples")


class PlainGrid(Grid):
    """Nodes that answer at once."""

    def __init__(self, app, described, seed):
        self.app, self.described, self.seed = app, described, seed
        self.contexts = {}
        self.turns = {}
        self.replies = {}

    def set_run(self, run):
        pass

    @property
    def run(self):
        return Run.create_empty(1)

    def create_message(self, content, message_type, dst_node_id, group_id, ttl=None):
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self):
        return [FIRST_NODE + n for n in range(self.described.nodes)]

    def push_messages(self, messages):
        ids = []
        for message in messages:
            ids.append(f"message {len(self.turns)} {sum(self.turns.values())}")
            self.replies[ids[-1]] = self._answer(message, ids[-1])
        return ids

    def pull_messages(self, message_ids):
        return [self.replies.pop(i) for i in sorted(message_ids, key=_number)]

    def send_and_receive(self, messages, *, timeout=None):
        return self.pull_messages(self.push_messages(messages))

    def _answer(self, message, message_id):
        partition = message.metadata.dst_node_id - FIRST_NODE
        turn = self.turns[partition] = self.turns.get(partition, 0) + 1
        context = self.contexts.setdefault(
            partition,
            Context(
                1,
                FIRST_NODE + partition,
                {"partition-id": partition, "num-partitions": self.described.nodes},
                RecordDict(),
                self.described.run_config,
            ),
        )
        private.set_ids(message, message_id)
        with isolated(0):
            seed = derive(self.seed, "app", partition, turn)
            random.seed(seed)
            np.random.seed(seed % 2**32)
            import torch

            torch.manual_seed(seed)
            try:
                return self.app(copy.deepcopy(message), context)
            except Exception as error:
                return Message(Error(2, str(error)), reply_to=message)


def _number(message_id):
    return int(message_id.split()[-1])


def run(name, seed=0, **changes):
    """Run a sample app, and return the `Result` of its strategy, or None."""
    described = project.read(SAMPLES / name, changes)
    made = []
    original = Result.__init__

    def begin(result, *arguments, **options):
        original(result, *arguments, **options)
        made.append(result)

    private.enter()
    with on_path(described.folder):
        with isolated(derive(seed, "client-app")):
            client = _app(described.clientapp)
        with isolated(derive(seed, "server-app-import")):
            server = _app(described.serverapp)
        context = Context(1, 1, {}, RecordDict(), dict(described.run_config))
        Result.__init__ = begin  # type: ignore[method-assign, assignment]
        try:
            with isolated(derive(seed, "server-app")):
                server(PlainGrid(client, described, seed), context)
        finally:
            Result.__init__ = original  # type: ignore[method-assign]
    return made[-1] if made else None


def _app(reference):
    module, _, attribute = reference.partition(":")
    return getattr(import_module(module), attribute)
