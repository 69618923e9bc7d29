"""The bytes of a payload: protobuf's, but the body is put in and cut out by hand.

protobuf would copy a large array two or three times; by hand it is copied once on the way
out and not at all on the way in. The bytes are those of the same message.
"""

from __future__ import annotations

import struct

from google.protobuf.message import DecodeError

from fedlearn.codec.bits import Reader
from fedlearn.errors import FormatError
from fedlearn.system.checksum import crc32
from fedlearn.system.varint import varint
from fedlearn.wire import payload_pb2
from fedlearn.wire.header import METRICS

FORMAT = 1

# A payload or its body as it lies in memory.
Bytes = bytes | memoryview

# The most fields of a message: many empty ones would take a hundred times their bytes in
# memory once they are parsed.
_FIELDS = METRICS + 32

_WORD = 2**64 - 1

# Kinds of protobuf's fields: a varint, bytes with their length, and the fixed ones with
# their widths in bytes.
_VARINT_KIND = 0
_LENGTH_KIND = 2
_FIXED_KINDS = {1: 8, 5: 4}

_BODY_FIELD = 14
# Of this field, length-delimited.
_BODY_TAG = b"\x72"
# Of field 15, fixed 32 bit.
_CHECKSUM_TAG = b"\x7d"
_TAIL_BYTES = 5


def sealed_length(head_bytes: int, body_bytes: int) -> int:
    """Return the bytes of a payload whose message without body has ``head_bytes``."""
    length = varint(body_bytes)
    body_head = len(_BODY_TAG) + len(length)
    return head_bytes + body_head + body_bytes + _TAIL_BYTES


def seal(message: payload_pb2.Payload, body: Bytes) -> bytes:
    """Return the payload of a message that has neither body nor checksum yet."""
    # Deterministic: the same header gives the same bytes in every process.
    head = message.SerializeToString(deterministic=True)
    parts = [head, _BODY_TAG, varint(len(body)), body]
    checksum = 0
    for part in parts:
        checksum = crc32(part, checksum)
    return b"".join([*parts, _CHECKSUM_TAG, struct.pack("<I", checksum)])


def unseal(data: Bytes) -> tuple[payload_pb2.Payload, Bytes]:
    """Return the message without its body, and the body; raises FormatError."""
    if len(data) < _TAIL_BYTES or data[-5:-4] != _CHECKSUM_TAG:
        raise FormatError("not a payload: it does not end with a checksum")
    if crc32(memoryview(data)[:-5]) != struct.unpack("<I", data[-4:])[0]:
        raise FormatError("the payload is damaged: its checksum differs")
    # After the checksum: only bytes that arrived as they were sent are parsed.
    start, begin, end = _body_place(data)
    head = b"".join((data[:start], data[end:]))
    try:
        message: payload_pb2.Payload = payload_pb2.Payload.FromString(head)
    except DecodeError as error:
        raise FormatError(f"not a payload: {error}") from None
    if message.format != FORMAT:
        raise FormatError(
            f"the payload has format {message.format}; "
            f"this version of fedlearn reads format {FORMAT}"
        )
    return message, data[begin:end]


def _body_place(data: Bytes) -> tuple[int, int, int]:
    """Return where the body's field starts, and where the body itself begins and ends.

    The last such field counts, as everywhere in protobuf; without one all three are the
    end of the data. Raises FormatError.
    """
    reader = Reader(data)
    count = 0
    place = (len(data), len(data), len(data))
    while reader.left:
        start = reader.at
        tag = reader.number(_WORD)
        count += 1
        if count > _FIELDS:
            raise FormatError(
                f"the payload has more than {_FIELDS} fields, "
                f"of which at most {METRICS} are metrics"
            )
        kind = tag & 7
        if kind == _VARINT_KIND:
            reader.number(_WORD)
        elif kind in _FIXED_KINDS:
            reader.skip(_FIXED_KINDS[kind])
        elif kind == _LENGTH_KIND:
            length = reader.number(len(data))
            if tag >> 3 == _BODY_FIELD:
                place = (start, reader.at, reader.at + length)
            reader.skip(length)
        else:
            raise FormatError(f"not a payload: a field of the unknown kind {kind}")
    return place
