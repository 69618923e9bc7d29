"""Whole numbers in as few bytes as they need, as protobuf and our codecs write them."""

from __future__ import annotations


def varint(value: int) -> bytes:
    """Return a whole number as bytes: seven bits in each, the lowest first.

    The last byte is below 128. See protobuf's encoding, "Base 128 Varints".
    """
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
