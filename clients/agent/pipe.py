"""What an agent and the process that works for it tell each other over a pipe.

The agent sends one `WorkSetup`, and then a `WorkRequest` for each task, with the task and its
payloads as byte strings. The process replies to each request with a `WorkReply`, with the
answer as a byte string. Only this file knows the keys of the messages.

A message is the length of its head (4 bytes, little endian), the head, which is a JSON object,
and byte strings whose lengths the head has under "blobs".
"""

from __future__ import annotations

import json
import struct
from asyncio import StreamReader
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import IO, Any, Literal

_LENGTH = struct.Struct("<I")

Head = Mapping[str, Any]
Message = tuple[dict[str, Any], list[bytes]]

# "answer": the answer follows; "lacking": the model that a difference starts from is missing;
# "declined": not now, or not on this device; "failed": the work raised an error.
Result = Literal["answer", "lacking", "declined", "failed"]


@dataclass(frozen=True)
class Limits:
    """What the device's owner allows; 0: no limit."""

    # Passes over the samples, also where the plan counts steps.
    epochs: int = 0
    # Mini-batches.
    steps: int = 0
    # Modules that models and data may be imported from, and exact names MODULE:NAME.
    allow: tuple[str, ...] = ()


@dataclass(frozen=True)
class AppRules:
    """What the device's owner decides of Flower apps.

    apps: installed packages whose ClientApp may run here, and exact names MODULE:NAME.
    node_config: keys of ``context.node_config``. seconds: for one message; 0: no limit.
    """

    apps: tuple[str, ...] = ()
    node_config: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


# No app may run.
NO_APPS = AppRules()


@dataclass(frozen=True)
class WorkSetup:
    """What the process builds before its first task.

    folder: of the run. experiment: the welcome's JSON. data: "auto", a file.npz, or an import path.
    rules: of Flower apps.
    """

    folder: str
    client: int
    experiment: str
    data: str
    limits: Limits
    rules: AppRules = NO_APPS

    @property
    def is_app(self) -> bool:
        """Tell whether the run is one of a Flower app."""
        try:
            experiment = json.loads(self.experiment)
        # It came from outside; who reads it in earnest refuses it.
        except (ValueError, RecursionError):
            return False
        return isinstance(experiment, dict) and "app" in experiment

    def to_dict(self) -> dict[str, Any]:
        """Return the setup as the head of a message; the limits stand beside the other keys."""
        head = asdict(self)
        limits = head.pop("limits")
        return {**head, **limits}

    @classmethod
    def from_dict(cls, head: Head) -> WorkSetup:
        """Return the setup of a message's head."""
        limits = Limits(head["epochs"], head["steps"], tuple(head["allow"]))
        rules = head["rules"]
        return cls(
            head["folder"],
            head["client"],
            head["experiment"],
            head["data"],
            limits,
            AppRules(tuple(rules["apps"]), rules["node_config"], rules["seconds"]),
        )


@dataclass(frozen=True)
class WorkRequest:
    """Asks for the work on a task."""

    # Of the answer's file.
    name: str
    # Of mini-batches, known to be needed on this device.
    halvings: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the request as the head of a message."""
        return asdict(self)

    @classmethod
    def from_dict(cls, head: Head) -> WorkRequest:
        """Return the request of a message's head."""
        return cls(head["name"], head.get("halvings", 0))


@dataclass(frozen=True)
class WorkCost:
    """What the training for an answer took; steps is 0 after an evaluation."""

    steps: int = 0
    train_s: float = 0.0
    # Of mini-batches, for want of memory.
    halvings: int = 0

    def figures(self, joules: float | None, up_mbps: float) -> dict[str, str | float]:
        """Return what the coordinator is told of it; what is not known is left out.

        joules: drawn by the whole device. up_mbps: of the last long upload, 0 if there was none.
        """
        figures: dict[str, str | float] = {}
        # After an evaluation there is no step to divide by.
        if self.steps:
            figures["step_s"] = round(self.train_s / self.steps, 6)
            if joules is not None:
                figures["joules"] = round(joules, 2)
        if up_mbps:
            figures["up_mbps"] = round(up_mbps, 2)
        return figures


@dataclass(frozen=True)
class WorkReply:
    """What came of a request; text: the reason, where there is no answer."""

    result: Result
    text: str = ""
    cost: WorkCost = WorkCost()

    def to_dict(self) -> dict[str, Any]:
        """Return the reply as the head of a message."""
        cost = asdict(self.cost)
        return {"result": self.result, "text": self.text, "spent": cost}

    @classmethod
    def from_dict(cls, head: Head) -> WorkReply:
        """Return the reply of a message's head."""
        cost = WorkCost(**head["spent"])
        return cls(head["result"], head["text"], cost)


def pack(head: Head, blobs: Sequence[bytes] = ()) -> list[bytes]:
    """Return a message as parts to write one after another."""
    lengths = [len(blob) for blob in blobs]
    text = json.dumps({**head, "blobs": lengths}).encode()
    return [_LENGTH.pack(len(text)), text, *blobs]


def read(stream: IO[bytes]) -> Message | None:
    """Return the next message, head and byte strings; None at the end of the stream."""
    length = stream.read(_LENGTH.size)
    # A short read is the end of the pipe: the agent has ended.
    if len(length) < _LENGTH.size:
        return None
    head = json.loads(stream.read(*_LENGTH.unpack(length)))
    return head, [stream.read(size) for size in head["blobs"]]


async def receive(stream: StreamReader) -> Message:
    """Return the next message; raises asyncio.IncompleteReadError at the end of the stream."""
    length = await stream.readexactly(_LENGTH.size)
    head = json.loads(await stream.readexactly(*_LENGTH.unpack(length)))
    return head, [await stream.readexactly(size) for size in head["blobs"]]
