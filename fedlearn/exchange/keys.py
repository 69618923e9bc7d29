"""What names a piece of work, at both ends."""

from __future__ import annotations

from fedlearn.exchange import exchange_pb2 as pb

Key = tuple[int, str, int]
"""Round, kind and turn of a piece of work: see `exchange.proto`."""


def proto(key: Key) -> pb.Key:
    """Return a key as frames carry it."""
    return pb.Key(round=key[0], kind=key[1], turn=key[2])


def of(key: pb.Key) -> Key:
    """Return a key of a frame."""
    return key.round, key.kind, key.turn
