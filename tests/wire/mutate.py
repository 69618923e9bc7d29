"""Ways to damage a payload; see `fuzz`. Each takes a source of random numbers, the
payload's case and all the others.
"""

from __future__ import annotations

import contextlib
import lzma
import random
import struct
import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from fedlearn.wire import payload_pb2
from tests.wire.corpus import CHAINS, Case

_LZMA = [
    {
        "id": lzma.FILTER_LZMA1,
        "preset": 0,
        "dict_size": 2**16,
        "lc": 0,
        "lp": 0,
        "pb": 0,
    }
]
INTERESTING = (0, 1, 2, 7, 15, 16, 31, 127, 128, 129, 254, 255)
WORDS = (
    0,
    1,
    2**31 - 1,
    2**31,
    2**32 - 1,
    10 * 10**9,
    2**62,
    2**63 - 1,
    2**63,
    2**64 - 1,
)
FLOATS = tuple(
    struct.pack("<f", x)
    for x in (
        float("nan"),
        float("inf"),
        -float("inf"),
        3.4e38,
        -1.0,
        1e-45,
        -0.0,
        1e38,
    )
)
TEXTS = (
    "", "zip", "raw", "RAW32", "raw32 ", "q8+", "+q8", "q8+q8", "q16", "topk", "topk()",
    "topk(nan)+tern", "topk(inf)+tern", "topk(0)+tern", "topk(-1)+tern", "topk(2)+tern",
    "topk(1e-300)+tern", "topk(0.5)", "topk(0.5,0.5)+tern", "topk(1e400)+tern",
    "topk(0.01)+tern+tern", "topk(0.01)+topk(0.01)+tern", "randk(1e-9)+q8", "tern+topk(0.1)",
    "uvq", "uvq()", "uvq(0)", "uvq(nan)", "uvq(1e9)", "uvq(0.1,1,2)", "cvq(0.5,9)", "cvq(,)",
    "cvq(0.1", "uvq(0.1))", "os:system", "fedlearn.codec.plain:Raw32", "ef+q8", "auto", "\x00",
    "q8\n", "(" * 500, "q8+" * 3000, "topk(" + "9" * 5000 + ")+tern", "x" * 100_000,
)  # fmt: skip

Mutation = Callable[[random.Random, Case, Sequence[Case]], bytes]


def sealed(head: bytes) -> bytes:
    """Return a payload of what stands before the checksum."""
    return head + b"\x7d" + struct.pack("<I", zlib.crc32(head))


def raw_bytes(draw: random.Random, case: Case, others: Sequence[Case]) -> bytes:
    """Damage whose checksum is not mended, or no payload at all."""
    if draw.random() < 0.3:
        return draw.randbytes(draw.randrange(0, 200))
    return _damaged(draw, case.payload, draw.choice(others).payload)


def any_byte(draw: random.Random, case: Case, others: Sequence[Case]) -> bytes:
    """Damage anywhere before the checksum."""
    return sealed(_damaged(draw, case.payload[:-5], draw.choice(others).payload[:-5]))


def header_byte(draw: random.Random, case: Case, others: Sequence[Case]) -> bytes:
    """Damage in the fields before the body: tags, lengths and varints."""
    cut = max(8, len(case.payload) - 5 - len(_message(case.payload).body))
    return sealed(
        _damaged(draw, case.payload[:cut], draw.choice(others).payload[:cut])
        + case.payload[cut:-5]
    )


def body_bytes(draw: random.Random, case: Case, others: Sequence[Case]) -> bytes:
    """Damage in the body, which keeps its length more often than not."""
    message = payload_pb2.Payload.FromString(case.payload)
    body = bytearray(message.body)
    way = draw.randrange(8)
    if way == 0 or not body:
        body = bytearray(
            draw.randbytes(draw.choice((0, 1, 3, len(body), len(body) + 1, 100)))
        )
    elif way == 1:
        body = bytearray(draw.randbytes(len(body)))
    elif way == 2:
        body[: draw.randrange(1, 20)] = draw.randbytes(draw.randrange(1, 20))
    elif way == 3:
        body = bytearray(
            _damaged(draw, bytes(body), _message(draw.choice(others).payload).body)
        )
    elif way == 4:
        at = draw.randrange(0, max(1, len(body) - 4)) & ~3
        body[at : at + 4] = draw.choice(FLOATS)
    elif way == 5:
        body = bytearray(bytes([draw.choice(INTERESTING)]) * len(body))
    elif way == 6:
        at = draw.randrange(len(body))
        body[at : at + draw.randrange(3)] = _varint(draw.choice(WORDS))
    else:
        for at in range(draw.randrange(1, 6)):
            body[min(at, len(body) - 1)] = draw.choice(INTERESTING)
    message.body = bytes(body)
    return _resealed(message)


def fields(draw: random.Random, case: Case, others: Sequence[Case]) -> bytes:
    """One to three fields changed, and a sound message of it."""
    message = payload_pb2.Payload.FromString(case.payload)
    other = _message(draw.choice(others).payload)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        name = draw.choice(
            ("kind", "version", "codec", "codec", "seed", "parameters", "examples",
             "train_loss", "metrics", "integers", "body", "buffers", "residual",
             "digest", "base_digest", "schema", "format", "unknown")
        )  # fmt: skip
        if name == "codec":
            message.codec = draw.choice((*TEXTS, *CHAINS, other.codec, other.codec))
        elif name in ("kind", "residual"):
            setattr(
                message,
                name,
                draw.choice((-(2**31), -1, 0, 1, 2, 3, 4, 5, 99, 2**31 - 1)),
            )
        elif name in ("version", "format"):
            setattr(message, name, draw.choice((0, 1, 2, 2**32 - 1)))
        elif name in (
            "seed",
            "parameters",
            "examples",
            "digest",
            "base_digest",
            "schema",
        ):
            setattr(
                message,
                name,
                draw.choice((*WORDS, getattr(message, name) ^ 1, getattr(other, name))),
            )
        elif name == "train_loss":
            message.train_loss = struct.unpack("<f", draw.choice(FLOATS))[0]
        elif name == "metrics":
            for _ in range(draw.choice((1, 1, 100))):
                numbers = draw.choice(
                    ([], [1.0], [1e308] * 3, [float("nan")], [0.5], [float("inf")])
                )
                message.metrics.add(
                    name=draw.choice(("", "a", "\x1b[2J")),
                    values=numbers,
                    whole=draw.random() < 0.5,
                    list=draw.random() < 0.5,
                )
        elif name == "unknown":
            return sealed(case.payload[:-5] + _unknown(draw))
        else:
            data = getattr(message, name)
            cut = draw.choice(
                (
                    data[:-1],
                    data + b"\0",
                    b"",
                    data * 2,
                    getattr(other, name),
                    draw.choice(FLOATS) + data[4:],
                )
            )
            setattr(message, name, cut)
    return _resealed(message)


def bombs(draw: random.Random, case: Case, others: Sequence[Case]) -> bytes:
    """A short stream that inflates to megabytes, or a claim of 10 GB, in the place of
    what a codec would write.
    """
    message = payload_pb2.Payload.FromString(case.payload)
    body, (bomb, sort) = message.body, draw.choice(bomb_streams())
    found = _streams(body, sort)
    keep = body[: draw.choice((0, 1, 2, 3, 4, 6, 10, 32, len(body) // 2))]
    way = draw.randrange(8)
    if way < 5 and found:
        begin, end = draw.choice(found[:3])
        length = _varint(end - begin)
        before = body[:begin]
        told = before.endswith(length)
        message.body = (
            (before.removesuffix(length) + _varint(len(bomb)) if told else before)
            + bomb
            + body[end:]
        )
    elif way == 5:
        message.body = keep + bomb
    elif way == 6:
        message.body = (
            keep + _varint(draw.choice((len(bomb), *WORDS))) + bomb + body[len(keep) :]
        )
    else:
        message.body = (
            keep + _varint(10 * 10**9) * draw.randrange(1, 4) + body[len(keep) :]
        )
    return _resealed(message)


MUTATIONS: tuple[tuple[Mutation, int], ...] = (
    (raw_bytes, 5),
    (any_byte, 20),
    (header_byte, 15),
    (body_bytes, 35),
    (fields, 20),
    (bombs, 5),
)
"""Each way to damage a payload, and how often per hundred."""


def _damaged(draw: random.Random, data: bytes, other: bytes) -> bytes:
    """Return bytes with one to four of: a flipped bit, another byte, a cut, a hole, an
    insertion, a piece of another payload.
    """
    out = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 4))):
        at, way = draw.randrange(len(out) + 1), draw.randrange(8)
        if way < 3 and at < len(out):
            out[at] ^= 1 << draw.randrange(8)
        elif way == 3 and at < len(out):
            out[at] = draw.choice(INTERESTING)
        elif way == 4:
            del out[at : at + draw.choice((1, 2, 4, 100))]
        elif way == 5:
            out[at:at] = draw.choice(
                (
                    draw.randbytes(draw.randrange(1, 9)),
                    _varint(draw.choice(WORDS)),
                    b"\xff" * 9 + b"\x01",
                )
            )
        elif way == 6:
            begin = draw.randrange(len(other) + 1)
            piece = other[begin : begin + draw.choice((1, 4, 40, 1000))]
            out[at : at + draw.choice((0, len(piece)))] = piece
        elif draw.random() < 0.3:
            del out[at:]
    return bytes(out)


def _unknown(draw: random.Random) -> bytes:
    """Return bytes of fields that no version has: long ones, groups, and lengths that are
    not there.
    """
    tag = draw.choice(
        (
            _varint(18 << 3 | 2),
            _varint(2**28 | 2),
            b"\x93\x01",
            b"\x94\x01",
            b"\x00",
            b"\x07",
        )
    )
    return tag + draw.choice(
        (
            b"",
            b"\x00",
            _varint(draw.choice(WORDS)),
            b"\x93\x01" * 500,
            _varint(2000) + bytes(2000),
        )
    )


@lru_cache(maxsize=1)
def bomb_streams() -> tuple[tuple[bytes, str], ...]:
    """Return streams of every common kind that inflate to 2 or 16 MB of zeros, and their kinds."""
    made = []
    for count in (2, 2, 16):
        makers: dict[str, Any] = {
            "deflate": zlib.compressobj(9, zlib.DEFLATED, -15),
            "zlib": zlib.compressobj(9),
            "xz": lzma.LZMACompressor(lzma.FORMAT_XZ, preset=0),
            "lzma": lzma.LZMACompressor(lzma.FORMAT_RAW, filters=_LZMA),
        }
        made += [
            (
                b"".join(
                    [
                        *(maker.compress(bytes(2**20)) for _ in range(count)),
                        maker.flush(),
                    ]
                ),
                sort,
            )
            for sort, maker in makers.items()
        ]
    return tuple(made)


@lru_cache(maxsize=4096)
def _streams(body: bytes, sort: str) -> tuple[tuple[int, int], ...]:
    """Return where streams of a kind begin and end in a body, the longest first: whatever
    inflates to its own end.
    """
    found = []
    for begin in range(min(len(body), 600)):
        reader: Any = (
            lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_LZMA)
            if sort == "lzma"
            else zlib.decompressobj(-15)
        )
        with contextlib.suppress(zlib.error, lzma.LZMAError):
            reader.decompress(body[begin:])
            if reader.eof:
                found.append((begin, len(body) - len(reader.unused_data)))
    return tuple(sorted(found, key=lambda one: one[0] - one[1]))


@lru_cache(maxsize=512)
def _message(payload: bytes) -> payload_pb2.Payload:
    return payload_pb2.Payload.FromString(payload)


def _resealed(message: payload_pb2.Payload) -> bytes:
    message.ClearField("checksum")
    return sealed(message.SerializeToString(deterministic=True))


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])
