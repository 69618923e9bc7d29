"""Messages between an agent and the process that works for it: a line of JSON and byte strings, over a pipe."""

from __future__ import annotations

import json
import struct
from asyncio import StreamReader
from collections.abc import Mapping, Sequence
from typing import IO, Any

_HEAD = struct.Struct("<I")


def pack(told: Mapping[str, Any], blobs: Sequence[bytes] = ()) -> list[bytes]:
    """Return a message as parts to write one after another."""
    text = json.dumps({**told, "blobs": [len(blob) for blob in blobs]}).encode()
    return [_HEAD.pack(len(text)), text, *blobs]


def read(stream: IO[bytes]) -> tuple[dict[str, Any], list[bytes]] | None:
    """Return the next message; None at the end of the stream."""
    head = stream.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    told = json.loads(stream.read(_HEAD.unpack(head)[0]))
    return told, [stream.read(size) for size in told["blobs"]]


async def receive(stream: StreamReader) -> tuple[dict[str, Any], list[bytes]]:
    """Return the next message; raises asyncio.IncompleteReadError at the end of the stream."""
    told = json.loads(
        await stream.readexactly(_HEAD.unpack(await stream.readexactly(_HEAD.size))[0])
    )
    return told, [await stream.readexactly(size) for size in told["blobs"]]
