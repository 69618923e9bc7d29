"""Payloads: a model's state, or a client's update, as bytes that describe themselves.

The message is `payload.proto`; docs/wire.md explains it byte by byte. A decoder trusts nothing: every size comes
from the receiver's own layout, every value is checked to be finite, and each refusal is a typed error.

Legend: P floats, Q integers of the layout.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from fedlearn.arrays import Layout, State
from fedlearn.codec import codec as find_codec
from fedlearn.errors import FormatError, PayloadError, SchemaError
from fedlearn.wire import payload_pb2

FORMAT = 1
SNAPSHOT, UPDATE, GRADIENT, DIFFERENCE = (
    payload_pb2.Payload.SNAPSHOT,
    payload_pb2.Payload.UPDATE,
    payload_pb2.Payload.GRADIENT,
    payload_pb2.Payload.DIFFERENCE,
)

Metric = int | float | list[int] | list[float]
"""What a client may report under a name: a number or a list of numbers."""

_BODY_TAG = b"\x72"  # field 14, length-delimited
_CHECKSUM_TAG = b"\x7d"  # field 15, fixed 32 bit


@dataclass(frozen=True)
class Header:
    """What a payload says of itself besides its values; `payload.proto` explains each field."""

    kind: int
    version: int
    digest: bytes  # 8 bytes, see `digest`
    codec: str
    seed: int = 0
    examples: int = 0
    train_loss: float | None = None
    base_digest: bytes = bytes(8)
    metrics: Mapping[str, Metric] = field(default_factory=dict)


def digest(floats: NDArray[np.float32]) -> bytes:
    """Return 8 bytes that name a model's floats (P,) float32: the head of their SHA-256."""
    return hashlib.sha256(np.ascontiguousarray(floats, "<f4").data).digest()[:8]


def encode(layout: Layout, header: Header, state: State) -> bytes:
    """Return the payload of a state (SNAPSHOT) or of a difference (UPDATE, GRADIENT).

    Raises PayloadError when a value cannot be carried: not finite, or out of the codec's range.
    """
    _check_finite(state.floats)
    return _seal(layout, header, state.integers, find_codec(header.codec).encode(state.floats, header.seed))


def _seal(layout: Layout, header: Header, integers: NDArray[np.int64], body: bytes) -> bytes:
    """Return the payload of an encoded body."""
    message = payload_pb2.Payload(
        format=FORMAT,
        kind=header.kind,  # type: ignore[arg-type]  # the generated enum is an int at run time
        schema=int.from_bytes(layout.schema, "little"),
        version=header.version,
        digest=int.from_bytes(header.digest, "little"),
        codec=header.codec,
        seed=header.seed,
        parameters=layout.floats,
        examples=header.examples,
        train_loss=header.train_loss,
        metrics=[_metric(name, value) for name, value in header.metrics.items()],
        integers=np.ascontiguousarray(integers, "<i8").tobytes(),
        base_digest=int.from_bytes(header.base_digest, "little"),
    )
    # The body is appended by hand: one copy of a large array instead of three. It is the same message.
    head = message.SerializeToString(deterministic=True)
    parts = [head, _BODY_TAG, _varint(len(body)), body]
    checksum = 0
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    return b"".join([*parts, _CHECKSUM_TAG, struct.pack("<I", checksum)])


def encode_model(layout: Layout, state: State, version: int, codec: str, seed: int) -> tuple[bytes, Header, State]:
    """Return a whole model's payload, its header, and the state that every receiver will decode from it.

    Raises PayloadError as `encode` does.
    """
    _check_finite(state.floats)
    coder = find_codec(codec)
    body = coder.encode(state.floats, seed)
    decoded = State(coder.decode(body, layout.floats, seed), state.integers)
    header = Header(kind=SNAPSHOT, version=version, digest=digest(decoded.floats), codec=codec, seed=seed)
    return _seal(layout, header, state.integers, body), header, decoded


def encode_difference(
    layout: Layout, base: NDArray[np.float32], target: State, version: int, codec: str, seed: int
) -> tuple[bytes, Header, State]:
    """Return the payload that leads a receiver from ``base`` (P,) towards ``target``, and where it arrives.

    What arrives is base + decoded(encoded(target − base)), the same bits at both ends; integers travel as values.
    Raises PayloadError as `encode` does.
    """
    _check_finite(target.floats)
    coder = find_codec(codec)
    body = coder.encode(target.floats - base, seed)
    arrived = State(base + coder.decode(body, layout.floats, seed), target.integers)
    header = Header(DIFFERENCE, version, digest(arrived.floats), codec, seed, base_digest=digest(base))
    return _seal(layout, header, target.integers, body), header, arrived


def decode_difference(layout: Layout, data: bytes, base: NDArray[np.float32]) -> tuple[Header, State]:
    """Return the model that a difference leads to from ``base`` (P,).

    Raises SchemaError when the sender meant another base, FormatError when the result is not what was sent: the
    receiver then asks for a whole model.
    """
    header, change = decode(layout, data, (DIFFERENCE,))
    if header.base_digest != digest(base):
        raise SchemaError("the difference is against another model than the one held here")
    arrived = State(base + change.floats, change.integers)
    if digest(arrived.floats) != header.digest:
        raise FormatError("the model arrived at differs from the one that was sent: its digest is another")
    return header, arrived


def decode_model(layout: Layout, data: bytes) -> tuple[Header, State]:
    """Return a whole model and its header; raises FormatError when the decoded floats are not what was sent."""
    header, state = decode(layout, data, (SNAPSHOT,))
    if digest(state.floats) != header.digest:
        raise FormatError("the decoded model differs from the one that was sent: its digest is another")
    return header, state


def read_header(data: bytes) -> Header:
    """Return what a payload says of itself, after its checksum and format are verified; raises FormatError."""
    return _header(_parse(data))


def decode(layout: Layout, data: bytes, kinds: tuple[int, ...]) -> tuple[Header, State]:
    """Return a payload's header and its decoded values, floats (P,) float32 and integers (Q,) int64.

    kinds: what the receiver is ready to take. Raises FormatError for bytes that are no sound payload of these
    kinds, SchemaError for a payload of another model.
    """
    message = _parse(data)
    if message.kind not in kinds:
        raise FormatError(f"a payload of kind {message.kind} came where {kinds} is expected")
    if message.schema != int.from_bytes(layout.schema, "little") or message.parameters != layout.floats:
        raise SchemaError(
            f"the payload is for another model ({message.parameters} floats, schema {message.schema:016x}; "
            f"here {layout.floats}, {int.from_bytes(layout.schema, 'little'):016x})"
        )
    if len(message.integers) != 8 * layout.integers:
        raise FormatError(f"{len(message.integers)} bytes of integers where the model has {8 * layout.integers}")
    header = _header(message)
    floats = find_codec(header.codec).decode(message.body, layout.floats, header.seed)
    if not np.isfinite(floats).all():
        raise FormatError("the payload holds values that are NaN or infinite")
    return header, State(floats, np.frombuffer(message.integers, "<i8").astype(np.int64))


def _check_finite(floats: NDArray[np.float32]) -> None:
    if not np.isfinite(floats).all():
        raise PayloadError(f"{np.count_nonzero(~np.isfinite(floats))} of {floats.size} values are NaN or infinite")


def _header(message: payload_pb2.Payload) -> Header:
    metrics = {m.name: _value(m) for m in message.metrics}
    return Header(
        kind=message.kind,
        version=message.version,
        digest=message.digest.to_bytes(8, "little"),
        codec=message.codec,
        seed=message.seed,
        examples=message.examples,
        train_loss=message.train_loss if message.HasField("train_loss") else None,
        metrics=metrics,
        base_digest=message.base_digest.to_bytes(8, "little"),
    )


def _metric(name: str, value: Metric) -> payload_pb2.Payload.Metric:
    values = value if isinstance(value, list) else [value]
    whole = all(isinstance(v, int) for v in values)
    return payload_pb2.Payload.Metric(name=name, values=values, whole=whole, list=isinstance(value, list))


def _value(metric: payload_pb2.Payload.Metric) -> Metric:
    values: list[int] | list[float] = list(metric.values)
    if (not metric.list and len(values) != 1) or not np.isfinite(values).all():
        raise FormatError(f"the metric '{metric.name}' is not {'finite' if values else 'a number'}")
    if metric.whole:
        values = [int(v) for v in values]
    return values if metric.list else values[0]


def _parse(data: bytes) -> payload_pb2.Payload:
    if len(data) < 5 or data[-5:-4] != _CHECKSUM_TAG:
        raise FormatError("not a payload: it does not end with a checksum")
    if zlib.crc32(memoryview(data)[:-5]) != struct.unpack("<I", data[-4:])[0]:
        raise FormatError("the payload is damaged: its checksum differs")
    try:
        message: payload_pb2.Payload = payload_pb2.Payload.FromString(data)
    except DecodeError as error:
        raise FormatError(f"not a payload: {error}") from None
    if message.format != FORMAT:
        raise FormatError(f"the payload has format {message.format}; this version of fedlearn reads format {FORMAT}")
    return message


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)
