"""What names a piece of work, and what belongs to it, at both ends."""

from __future__ import annotations

import struct

from fedlearn.exchange import exchange_pb2 as pb

# Round, kind and turn of a piece of work: see `exchange.proto`.
Key = tuple[int, str, int]


def proto(key: Key) -> pb.Key:
    """Return a key as frames carry it."""
    return pb.Key(round=key[0], kind=key[1], turn=key[2])


def of(key: pb.Key) -> Key:
    """Return a key of a frame."""
    return key.round, key.kind, key.turn


def residual_name(key: Key) -> bytes:
    """Return the 8 bytes that name the residual which a piece of work left behind.

    The residual stays with the agent; the coordinator names it when it is to be used. The
    turn counts from 1 here, so that no name is eight zero bytes, which mean "none".
    """
    work_round, _, turn = key
    return struct.pack("<II", work_round, turn + 1)
