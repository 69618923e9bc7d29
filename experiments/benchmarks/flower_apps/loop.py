"""Flower's own loop over a plain Grid: an app's ServerApp here, its ClientApp called directly.

``python -m fedlearn.experiments.benchmarks.flower_apps.loop FILE.json OUT`` is started by
`sides`. No processes, no journal, no codec and no engine of ours: each message is answered
where it is pushed. Seeds are those of `fedlearn.apps`, so that an app which draws draws the
same; so is the digest over all messages, which alone tells whether two runs were the same.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import random
import sys
import traceback
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Context, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result
from flwr.supercore.run import Run

from fedlearn.apps import private
from fedlearn.apps.messages import Packing, packed
from fedlearn.apps.recording import arrays_sha256
from fedlearn.apps.replies import NodeRequest
from fedlearn.errors import reason_of
from fedlearn.seeds import derive, isolated

# Nodes are numbered as those of `fedlearn run`, for apps that send them to a generator.
FIRST_NODE = 1000

# What a result's metrics are called in a run folder.
_KINDS = {
    "train": "train_metrics_clientapp",
    "evaluate": "evaluate_metrics_clientapp",
    "server": "evaluate_metrics_serverapp",
}


class PlainGrid(Grid):
    """Nodes that answer at once."""

    def __init__(self, app: Any, settings: dict[str, Any]) -> None:
        """Take the ClientApp, and nodes, seed, run_config and node_config."""
        self._app = app
        self._settings = settings
        self._contexts: dict[int, Context] = {}
        # Node → its messages so far.
        self._turns: dict[int, int] = {}
        # Message id → its number, its reply and what is digested of it.
        self._replies: dict[str, tuple[int, Message, bytes]] = {}
        self._digest = hashlib.sha256()
        self.messages = 0
        self.failed = 0

    @property
    def digest(self) -> str:
        """Return the SHA-256 over all messages and replies."""
        return self._digest.hexdigest()

    def set_run(self, run: Any) -> None:
        """Keep no run."""

    @property
    def run(self) -> Run:
        """Return a run with its id."""
        return Run.create_empty(private.RUN_ID)

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Return a message to a node."""
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Return all nodes."""
        return [FIRST_NODE + number for number in range(self._settings["nodes"])]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Have messages answered, and return their ids."""
        return [self._push(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that have not been returned yet."""
        replies = [self._replies.pop(i) for i in message_ids if i in self._replies]
        replies.sort(key=lambda reply: reply[0])
        for _, _, text in replies:
            self._digest.update(text)
        return [message for _, message, _ in replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Return the replies to messages, in their order."""
        return self.pull_messages(self.push_messages(messages))

    def _push(self, message: Message) -> str:
        metadata = message.metadata
        node = metadata.dst_node_id
        self.messages += 1
        request = NodeRequest.of(
            self.messages,
            node,
            metadata.message_type,
            metadata.group_id,
            Packing().of(message.content),
        )
        self._digest.update(
            f"{request.number} {node} {request.kind} {request.group} "
            f"{sorted(request.digests.items())}".encode()
        )
        message_id = hashlib.sha256(str(self.messages).encode()).hexdigest()
        private.set_ids(message, message_id)
        reply = self._answer(message, node)
        text = self._text(self.messages, reply)
        self._replies[message_id] = self.messages, reply, text
        return message_id

    def _answer(self, message: Message, node: int) -> Message:
        partition = node - FIRST_NODE
        turn = self._turns.get(partition, 0) + 1
        self._turns[partition] = turn
        # The ServerApp's own generators are as they were afterwards.
        with isolated(0):
            _seed(derive(self._settings["seed"], "app", partition, turn))
            private.enter(node)
            try:
                request = copy.deepcopy(message)
                reply: Message = self._app(request, self._context(partition))
                # In Flower an answer travels too: the app may change its arrays later.
                return copy.deepcopy(reply)
            except Exception as error:
                traceback.print_exc()
                self.failed += 1
                return Message(Error(2, reason_of(error)), reply_to=message)
            finally:
                private.enter()

    def _context(self, partition: int) -> Context:
        if partition not in self._contexts:
            settings = self._settings
            node_config = {
                "partition-id": partition,
                "num-partitions": settings["nodes"],
                **settings["node_config"].get(str(partition), {}),
            }
            self._contexts[partition] = Context(
                private.RUN_ID,
                FIRST_NODE + partition,
                node_config,
                RecordDict(),
                settings["run_config"],
            )
        return self._contexts[partition]

    def _text(self, number: int, reply: Message) -> bytes:
        """Return what `fedlearn run` digests of a reply."""
        if reply.has_error():
            error = reply.error
            return f"{number} {error.code} {error.reason} 0".encode()
        payload = packed(reply.content, {}, "", 0).payload
        return f"{number} 0  {len(payload)}".encode() + payload


def _seed(seed: int) -> None:
    random.seed(seed)
    # numpy's old generator takes 32 bits.
    np.random.seed(seed % 2**32)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(seed)


def run(settings: dict[str, Any]) -> tuple[PlainGrid, Result | None]:
    """Run an app, and return its Grid and the last `Result` that its strategies made.

    settings: app (a folder), serverapp, clientapp, nodes, seed, run_config, node_config.
    """
    seed = settings["seed"]
    results: list[Result] = []
    original = Result.__init__

    def begin(result: Result, *arguments: Any, **options: Any) -> None:
        original(result, *arguments, **options)
        results.append(result)

    private.enter()
    sys.path.insert(0, settings["app"])
    with isolated(derive(seed, "client-app")):
        client = _component(settings["clientapp"])
    with isolated(derive(seed, "server-app-import")):
        server = _component(settings["serverapp"])
    context = Context(
        private.RUN_ID,
        private.SERVER_NODE,
        {},
        RecordDict(),
        dict(settings["run_config"]),
    )
    grid = PlainGrid(client, settings)
    Result.__init__ = begin  # type: ignore[method-assign, assignment]
    try:
        with isolated(derive(seed, "server-app")):
            server(grid, context)
    finally:
        Result.__init__ = original  # type: ignore[method-assign]
    return grid, results[-1] if results else None


def _component(reference: str) -> Any:
    module, _, attribute = reference.partition(":")
    return getattr(import_module(module), attribute)


def _one_thread() -> None:
    """Have torch compute as the workers of `fedlearn run` do, where there is a torch."""
    try:
        import torch
    except ImportError:
        return
    torch.set_num_threads(1)
    # What the first optimizer imports may draw.
    torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)


def main(arguments: list[str]) -> None:
    """Run the app of a file of settings, and write what came of it to a folder."""
    settings = json.loads(Path(arguments[0]).read_text())
    folder = Path(arguments[1])
    _one_thread()
    grid, result = run(settings)
    folder.mkdir(parents=True)
    arrays: dict[str, Any] = {}
    summary: dict[str, Any] = {
        "messages": grid.messages,
        "failed": grid.failed,
        "messages_sha256": grid.digest,
        "model_sha256": None,
    }
    if result is not None and result.arrays:
        summary["model_sha256"] = arrays_sha256(result.arrays)
        arrays = {name: array.numpy() for name, array in result.arrays.items()}
    for kind, name in _KINDS.items():
        rounds = getattr(result, name, None) or {}
        summary[kind] = dict(rounds[max(rounds)]) if rounds else None
    np.savez(folder / "result.npz", **arrays)
    (folder / "summary.json").write_text(json.dumps(summary))
    # An example may leave threads of its own behind.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
