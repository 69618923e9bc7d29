"""What whole apps need of Flower beyond its public API, in one place.

The same names are there from flwr 1.38 to 1.42.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flwr.app import ArrayRecord, Error, Message, RecordDict
from flwr.app.metadata import Metadata
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictProto
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fedlearn.errors import PayloadError, reason_of
from fedlearn.flower import is_of_an_app

# Of the ServerApp's end: `flwr.supercore.constant.SUPERLINK_NODE_ID`.
SERVER_NODE = 1
RUN_ID = 1


def enter(node: int = SERVER_NODE) -> None:
    """Let this process create messages, as the ServerApp or as a node.

    Since flwr 1.38 `Message(...)` raises unless a process-global, private identity is set.
    """
    TaskIdentity.run_id = RUN_ID
    TaskIdentity.task_id = 1
    TaskIdentity.node_id = node


def empty_run() -> Run:
    """Return what `Grid.run` gives: a run with its id."""
    return Run.create_empty(RUN_ID)


@contextmanager
def heard(stream: Any) -> Iterator[None]:
    """Have all of Flower's log written to a stream inside the block, whichever it took before."""
    handlers = _handlers()
    streams = [handler.stream for handler in handlers]
    logger = logging.getLogger("flwr")
    # A run of our own training in this process keeps it to what apps say.
    is_filtered = is_of_an_app in logger.filters
    logger.removeFilter(is_of_an_app)
    _hand(handlers, [stream] * len(handlers))
    try:
        yield
    finally:
        _hand(handlers, streams)
        if is_filtered:
            logger.addFilter(is_of_an_app)


def hear_here() -> None:
    """Have all of Flower's log written to this process' standard error."""
    logging.getLogger("flwr").removeFilter(is_of_an_app)
    handlers = _handlers()
    _hand(handlers, [sys.stderr] * len(handlers))


def _handlers() -> list[logging.StreamHandler[Any]]:
    handlers = logging.getLogger("flwr").handlers
    return [h for h in handlers if isinstance(h, logging.StreamHandler)]


def _hand(handlers: list[logging.StreamHandler[Any]], streams: list[Any]) -> None:
    for handler, stream in zip(handlers, streams, strict=True):
        # Not by `setStream`, which flushes a stream that may be closed by now.
        handler.stream = stream


def to_bytes(content: RecordDict) -> bytes:
    """Return records as Flower's own protobuf, the same bytes for the same records.

    Raises PayloadError for a value that it cannot carry.
    """
    try:
        proto = recorddict_to_proto(content)
        return bytes(proto.SerializeToString(deterministic=True))
    # Its own checks, protobuf's of numbers and texts, and those of an app's odd array.
    except Exception as error:
        raise PayloadError(
            f"Flower cannot carry these records: {reason_of(error)}"
        ) from error


def of_bytes(data: bytes) -> RecordDict:
    """Return the records of `to_bytes`."""
    return recorddict_from_proto(RecordDictProto.FromString(data))


def request_of(
    content: RecordDict, node: int, kind: str, group: str, message_id: str, ttl: float
) -> Message:
    """Return a message as it arrives at a node."""
    message = Message(content, node, kind, group_id=group, ttl=ttl)
    set_ids(message, message_id)
    return message


def set_ids(message: Message, message_id: str) -> None:
    """Give a message its id, which on Flower's engine the SuperLink does."""
    # The public property has no setter, and the id may be set only once.
    message.metadata.__dict__["_message_id"] = message_id


def reply_of(request: Message, content: RecordDict | Error, message_id: str) -> Message:
    """Return the reply to a request."""
    reply = Message(content, reply_to=request)
    metadata: Metadata = reply.metadata
    metadata.__dict__["_message_id"] = message_id
    return reply


def size_of(record: ArrayRecord) -> int:
    """Return the bytes of a record's arrays."""
    return sum(len(array.data) for array in record.values())
