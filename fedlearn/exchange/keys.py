"""What names a piece of work, and what belongs to it, at both ends."""

from __future__ import annotations

import struct

from fedlearn.exchange import exchange_pb2 as pb

# Round, kind and turn of a piece of work: see `exchange.proto`.
Key = tuple[int, str, int]


def proto(key: Key) -> pb.Key:
    """Return a key as frames carry it."""
    work_round, kind, turn = key
    return pb.Key(round=work_round, kind=kind, turn=turn)


def of(key: pb.Key) -> Key:
    """Return a key of a frame."""
    return key.round, key.kind, key.turn


def residual_name(key: Key) -> bytes:
    """Return the 8 bytes that name the residual which a piece of work left behind.

    The residual stays with the agent; the coordinator names it when it is to be used. In
    the name, turns count from 1.
    """
    work_round, _, turn = key
    return struct.pack("<II", work_round, turn + 1)
