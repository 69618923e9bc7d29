"""Payloads: a model's state, or a client's update, as bytes that describe themselves.

The message is `payload.proto`; docs/wire.md explains it byte by byte. A decoder trusts nothing: every size comes
from the receiver's own layout, every value is checked to be finite, and each refusal is a typed error.

Legend: P floats, Q integers of the layout.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import cast

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from fedlearn.arrays import Change, Layout, Sparse, State, magnitude
from fedlearn.codec import ZERO, Context, canonical
from fedlearn.codec import codec as find_codec
from fedlearn.codec.bits import Reader
from fedlearn.errors import FormatError, PayloadError, SchemaError
from fedlearn.system.checksum import crc32
from fedlearn.system.varint import varint
from fedlearn.wire import payload_pb2

FORMAT = 1
SNAPSHOT, UPDATE, GRADIENT, DIFFERENCE = (
    payload_pb2.Payload.SNAPSHOT,
    payload_pb2.Payload.UPDATE,
    payload_pb2.Payload.GRADIENT,
    payload_pb2.Payload.DIFFERENCE,
)
NO_FEEDBACK, FRESH, CARRIED = (
    payload_pb2.Payload.NO_FEEDBACK,
    payload_pb2.Payload.FRESH,
    payload_pb2.Payload.CARRIED,
)

Metric = int | float | list[int] | list[float]
"""What a client may report under a name: a number or a list of numbers."""

_ROW = 1024
"""Numbers of 64 bits in a row of `digest`."""

METRICS = 1000
"""The most metrics in a payload."""

_FIELDS = METRICS + 32
"""The most fields of a message: many empty ones would take a hundred times their bytes in memory once they are parsed."""

MARGIN = 1 << 20
"""Bytes that a payload may have beyond twice its model's: metrics, and the overhead of codecs on tiny models."""

RAW = "raw32"
"""The codec whose bodies are the values themselves: they are not copied."""

Bytes = bytes | memoryview
"""A payload as it lies in memory."""

_WORD = 2**64 - 1
_WIDTHS = {1: 8, 5: 4}  # bytes of protobuf's fixed kinds

_BODY_FIELD = 14
_BODY_TAG = b"\x72"  # of this field, length-delimited
_CHECKSUM_TAG = b"\x7d"  # field 15, fixed 32 bit

_NOT_FINITE = "the payload holds values that are NaN or infinite"


@dataclass(frozen=True)
class Header:
    """What a payload says of itself besides its values; `payload.proto` explains each field.

    round: of a model: rounds done; of an update: the round of the model that it started from. The wire calls it `version`.
    """

    kind: int
    round: int
    digest: bytes  # 8 bytes, see `digest`
    codec: str
    seed: int = 0
    examples: int = 0
    train_loss: float | None = None
    base_digest: bytes = bytes(8)
    residual: int = NO_FEEDBACK
    metrics: Mapping[str, Metric] = field(default_factory=dict)


def digest(floats: NDArray[np.float32]) -> bytes:
    """Return 8 bytes that name a model's floats (P,) float32.

    Rows of 2,048 floats are hashed as 1,024 numbers of 64 bits, Σ aᵢ·xᵢ modulo 2**64 with odd aᵢ, so that no single change
    goes unnoticed (multilinear hashing: Carter and Wegman, "Universal Classes of Hash Functions", JCSS 1979); the digest is
    the head of the SHA-256 of the rows' hashes, of the rest, and of P. Ten times as fast as SHA-256 of everything, and meant
    against damage and mistakes, not against forgers.
    """
    flat = np.ascontiguousarray(floats, "<f4")
    cut = flat.size - flat.size % (2 * _ROW)
    rows = np.einsum("ij,j->i", flat[:cut].view("<u8").reshape(-1, _ROW), _odd())
    named = hashlib.sha256(rows.astype("<u8").tobytes())
    named.update(flat[cut:].data)
    named.update(struct.pack("<Q", flat.size))
    return named.digest()[:8]


@lru_cache(maxsize=1)
def _odd() -> NDArray[np.uint64]:
    """Return the multipliers of `digest` (1024,): fixed odd numbers."""
    return np.random.PCG64(2_605_361).random_raw(_ROW) | np.uint64(1)


def encode(
    layout: Layout,
    header: Header,
    state: State,
    moved: NDArray[np.float32] | None = None,
) -> bytes:
    """Return the payload of a state (SNAPSHOT) or of a difference (UPDATE, GRADIENT).

    moved: (P,) the model that a difference starts from minus the run's first model, for the codecs that use it.
    Raises PayloadError when a value cannot be carried: not finite, or out of the codec's range.
    """
    _check_finite(state.floats)
    header = replace(header, codec=canonical(header.codec))
    return _seal(layout, header, state, _body(layout, header, state.floats, moved))


def raw_length(layout: Layout, header: Header) -> int:
    """Return the bytes of the payload that `encode` makes of any values under a header whose codec is raw32."""
    body = 4 * (layout.floats - layout.buffers_at.size)
    head = _head(
        layout,
        header,
        np.zeros(layout.integers, np.int64),
        np.zeros(layout.buffers_at.size, np.float32),
    )
    return (
        int(head.ByteSize())
        + len(_BODY_TAG)
        + len(varint(body))
        + body
        + len(_CHECKSUM_TAG)
        + 4
    )


def encode_model(
    layout: Layout, state: State, rounds_done: int, codec: str, seed: int
) -> tuple[bytes, Header, State]:
    """Return a whole model's payload, its header, and the state that every receiver will decode from it.

    Raises PayloadError as `encode` does.
    """
    _check_finite(state.floats)
    header = Header(SNAPSHOT, rounds_done, bytes(8), canonical(codec), seed)
    body = _body(layout, header, state.floats, None)
    floats = _dense(
        _floats(layout, header, body, state.floats[layout.buffers_at], None)
    )
    header = replace(header, digest=digest(floats))
    return _seal(layout, header, state, body), header, State(floats, state.integers)


def encode_difference(
    layout: Layout,
    base: State,
    base_digest: bytes,
    target: State,
    rounds_done: int,
    codec: str,
    seed: int,
    moved: NDArray[np.float32] | None,
) -> tuple[bytes, Header, State]:
    """Return the payload that leads a receiver from ``base`` towards ``target``, and where it arrives.

    What arrives is base + decoded(encoded(target − base)), the same bits at both ends; buffers and integers travel
    as values. A receiver that holds the target already is sent no values at all. base_digest: of the base's floats.
    moved: (P,) the base minus the run's first model. Raises PayloadError as `encode` does.
    """
    _check_finite(target.floats)
    with np.errstate(over="ignore"):
        change = target.floats - base.floats
    _check_finite(change)
    same = np.array_equal(
        target.floats.view(np.uint32), base.floats.view(np.uint32)
    )  # −0.0 is another model than 0.0
    header = Header(
        DIFFERENCE,
        rounds_done,
        bytes(8),
        ZERO if same else canonical(codec),
        seed,
        base_digest=base_digest,
    )
    body = _body(layout, header, change, moved)
    arrived = _arrive(
        layout, header, body, base.floats, target.floats[layout.buffers_at], moved
    )
    header = replace(
        header, digest=base_digest if header.codec == ZERO else digest(arrived)
    )
    return _seal(layout, header, target, body), header, State(arrived, target.integers)


def decode_difference(
    layout: Layout,
    data: bytes,
    base: NDArray[np.float32],
    base_digest: bytes,
    moved: NDArray[np.float32] | None = None,
) -> tuple[Header, State]:
    """Return the model that a difference leads to from ``base`` (P,); the other arguments as in `encode_difference`.

    Raises SchemaError when the sender meant another base, FormatError when the result is not what was sent: the
    receiver then asks for a whole model.
    """
    header, message, body, buffers = _open(layout, data, (DIFFERENCE,))
    if header.base_digest != base_digest:
        raise SchemaError(
            "the difference is against another model than the one held here"
        )
    arrived = _arrive(layout, header, body, base, buffers, moved)
    if digest(arrived) != header.digest:
        raise FormatError(
            "the model arrived at differs from the one that was sent: its digest is another"
        )
    return header, State(arrived, _integers(message))


def decode_model(layout: Layout, data: Bytes) -> tuple[Header, State]:
    """Return a whole model and its header; raises FormatError when the decoded floats are not what was sent."""
    header, change = decode(layout, data, (SNAPSHOT,))
    state = change.dense()
    if digest(state.floats) != header.digest:
        raise FormatError(
            "the decoded model differs from the one that was sent: its digest is another"
        )
    return header, state


def read_header(data: bytes) -> Header:
    """Return what a payload says of itself, after its checksum and format are verified; raises FormatError."""
    return read_message(data)[0]


def read_message(data: bytes) -> tuple[Header, payload_pb2.Payload]:
    """Return `read_header` and the whole message that it is read from; raises FormatError."""
    message, body = _parse(data)
    message.body = bytes(body)
    return _header(message), message


def decode(
    layout: Layout,
    data: Bytes,
    kinds: tuple[int, ...],
    moved: NDArray[np.float32] | None = None,
    asked: str | None = None,
) -> tuple[Header, Change]:
    """Return a payload's header and its decoded values; with ``raw32`` they lie where the payload lies.

    kinds: what the receiver is ready to take. moved: as in `encode`. asked: the codec that was asked for; another one may
    take more memory, and is refused before its body is looked at. Raises FormatError for bytes that are no sound
    payload of these kinds, SchemaError for a payload of another model.
    """
    header, message, body, buffers = _open(layout, data, kinds)
    if asked is not None and header.codec != canonical(asked):
        raise FormatError(
            f"the payload is encoded by {header.codec}, not by {asked} as asked"
        )
    change = Change(_floats(layout, header, body, buffers, moved), _integers(message))
    if not math.isfinite(change.largest):
        raise FormatError(_NOT_FINITE)
    return header, change


def _open(
    layout: Layout, data: Bytes, kinds: tuple[int, ...]
) -> tuple[Header, payload_pb2.Payload, Bytes, NDArray[np.float32]]:
    """Return the header, the message, the body and the buffers of a payload whose sizes are this layout's."""
    if len(data) > 2 * layout.raw_bytes + MARGIN:
        raise FormatError(
            f"a payload of {len(data)} bytes where the model has {layout.raw_bytes}"
        )
    message, body = _parse(data)
    if message.kind not in kinds:
        raise FormatError(
            f"a payload of kind {message.kind} came where {kinds} is expected"
        )
    if (
        message.schema != int.from_bytes(layout.schema, "little")
        or message.parameters != layout.floats
    ):
        raise SchemaError(
            f"the payload is for another model ({message.parameters} floats, schema {message.schema.to_bytes(8, 'little').hex()}; "
            f"here {layout.floats}, {layout.schema.hex()})"
        )
    for name, got, wanted in (
        ("integers", len(message.integers), 8 * layout.integers),
        ("buffers", len(message.buffers), 4 * layout.buffers_at.size),
    ):
        if got != wanted:
            raise FormatError(f"{got} bytes of {name} where the model has {wanted}")
    _check_header(message)
    return (
        _header(message),
        message,
        body,
        np.frombuffer(message.buffers, "<f4").astype(np.float32),
    )


def _check_header(message: payload_pb2.Payload) -> None:
    """Raise FormatError for what no sender of this version writes."""
    if len(message.metrics) > METRICS or message.residual not in (
        NO_FEEDBACK,
        FRESH,
        CARRIED,
    ):
        raise FormatError(
            f"{len(message.metrics)} metrics (at most {METRICS}), state {message.residual} of the residual (0 to 2)"
        )
    if not math.isfinite(message.train_loss):
        raise FormatError("the training loss is NaN or infinite")
    if canonical(message.codec) != message.codec:
        raise FormatError(
            f"the codec '{message.codec}' is not written as payloads write it: {canonical(message.codec)}"
        )


def _body(
    layout: Layout,
    header: Header,
    floats: NDArray[np.float32],
    moved: NDArray[np.float32] | None,
) -> Bytes:
    """Return the trained ones of the floats (P,) as the header's codec encodes them."""
    at = layout.trained_at
    if header.codec == RAW:
        return np.ascontiguousarray(floats[at], "<f4").view(np.uint8).data
    return find_codec(header.codec).encode(
        floats[at],
        header.seed,
        Context(layout.trained_shapes, None if moved is None else moved[at]),
    )


def _floats(
    layout: Layout,
    header: Header,
    body: Bytes,
    buffers: NDArray[np.float32],
    moved: NDArray[np.float32] | None,
) -> NDArray[np.float32] | Sparse:
    """Return all P floats of an encoded body and the buffers, which may not be finite; raises FormatError."""
    at = layout.trained_at
    context = Context(layout.trained_shapes, None if moved is None else moved[at])
    taken = (
        cast(bytes, body) if header.codec == RAW else bytes(body)
    )  # which takes a view as well
    coded = find_codec(header.codec).decode(taken, header.seed, context)
    if isinstance(at, slice):
        return coded
    if isinstance(coded, Sparse):
        places = np.concatenate([at[coded.indices], layout.buffers_at])
        order = np.argsort(places, kind="stable")
        return Sparse(
            places[order], np.concatenate([coded.values, buffers])[order], layout.floats
        )
    floats = np.empty(layout.floats, np.float32)
    floats[at], floats[layout.buffers_at] = coded, buffers
    return floats


def _arrive(
    layout: Layout,
    header: Header,
    body: Bytes,
    base: NDArray[np.float32],
    buffers: NDArray[np.float32],
    moved: NDArray[np.float32] | None,
) -> NDArray[np.float32]:
    """Return the floats (P,) that a difference leads to; the same at both ends, which both call this."""
    change = Change(
        _floats(layout, header, body, buffers, moved), np.empty(0, np.int64)
    )
    if not math.isfinite(change.largest):
        raise FormatError(_NOT_FINITE)
    with np.errstate(over="ignore", invalid="ignore"):
        arrived = change.after(base)
    arrived[layout.buffers_at] = buffers
    if not np.isfinite(arrived).all():
        raise FormatError("the difference leads to values that are NaN or infinite")
    return arrived


def _integers(message: payload_pb2.Payload) -> NDArray[np.int64]:
    return np.frombuffer(message.integers, "<i8").astype(np.int64)


def _dense(floats: NDArray[np.float32] | Sparse) -> NDArray[np.float32]:
    return floats.dense() if isinstance(floats, Sparse) else floats


def _seal(layout: Layout, header: Header, state: State, body: Bytes) -> bytes:
    """Return the payload of an encoded body; buffers and integers are the state's."""
    head = _head(
        layout, header, state.integers, state.floats[layout.buffers_at]
    ).SerializeToString(deterministic=True)
    # The body is appended by hand: one copy of a large array instead of three. It is the same message.
    parts = [head, _BODY_TAG, varint(len(body)), body]
    checksum = 0
    for part in parts:
        checksum = crc32(part, checksum)
    return b"".join([*parts, _CHECKSUM_TAG, struct.pack("<I", checksum)])


def _head(
    layout: Layout,
    header: Header,
    integers: NDArray[np.int64],
    buffers: NDArray[np.float32],
) -> payload_pb2.Payload:
    """Return the message without its body and checksum. integers: (Q,), buffers: those of the floats that are not trained."""
    return payload_pb2.Payload(
        format=FORMAT,
        kind=header.kind,  # type: ignore[arg-type]  # the generated enum is an int at run time
        schema=int.from_bytes(layout.schema, "little"),
        version=header.round,
        digest=int.from_bytes(header.digest, "little"),
        codec=header.codec,
        seed=header.seed,
        parameters=layout.floats,
        examples=header.examples,
        train_loss=header.train_loss,
        metrics=[_metric(name, value) for name, value in header.metrics.items()],
        integers=np.ascontiguousarray(integers, "<i8").tobytes(),
        buffers=np.ascontiguousarray(buffers, "<f4").tobytes(),
        base_digest=int.from_bytes(header.base_digest, "little"),
        residual=header.residual,  # type: ignore[arg-type]
    )


def _check_finite(floats: NDArray[np.float32]) -> None:
    if not math.isfinite(magnitude(floats)):
        raise PayloadError(
            f"{np.count_nonzero(~np.isfinite(floats))} of {floats.size} values are NaN or infinite"
        )


def _header(message: payload_pb2.Payload) -> Header:
    metrics = {m.name: _value(m) for m in message.metrics}
    return Header(
        kind=message.kind,
        round=message.version,
        digest=message.digest.to_bytes(8, "little"),
        codec=message.codec,
        seed=message.seed,
        examples=message.examples,
        train_loss=message.train_loss if message.HasField("train_loss") else None,
        metrics=metrics,
        base_digest=message.base_digest.to_bytes(8, "little"),
        residual=message.residual,
    )


def _metric(name: str, value: Metric) -> payload_pb2.Payload.Metric:
    values = value if isinstance(value, list) else [value]
    whole = all(isinstance(v, int) for v in values)
    return payload_pb2.Payload.Metric(
        name=name, values=values, whole=whole, list=isinstance(value, list)
    )


def _value(metric: payload_pb2.Payload.Metric) -> Metric:
    values: list[int] | list[float] = list(metric.values)
    if (not metric.list and len(values) != 1) or not all(map(math.isfinite, values)):
        raise FormatError(
            f"the metric '{metric.name}' is not {'finite' if values else 'a number'}"
        )
    if metric.whole:
        values = [int(v) for v in values]
    return values if metric.list else values[0]


def _parse(data: Bytes) -> tuple[payload_pb2.Payload, Bytes]:
    """Return the message without its body, and the body; raises FormatError."""
    if len(data) < 5 or data[-5:-4] != _CHECKSUM_TAG:
        raise FormatError("not a payload: it does not end with a checksum")
    if crc32(memoryview(data)[:-5]) != struct.unpack("<I", data[-4:])[0]:
        raise FormatError("the payload is damaged: its checksum differs")
    start, begin, end = _body_place(data)
    try:
        message: payload_pb2.Payload = payload_pb2.Payload.FromString(
            b"".join((data[:start], data[end:]))
        )
    except DecodeError as error:
        raise FormatError(f"not a payload: {error}") from None
    if message.format != FORMAT:
        raise FormatError(
            f"the payload has format {message.format}; this version of fedlearn reads format {FORMAT}"
        )
    return message, data[begin:end]


def _body_place(data: Bytes) -> tuple[int, int, int]:
    """Return where the field of the body starts, where the body itself begins, and where it ends; raises FormatError.

    The last such field counts, as everywhere in protobuf; without one all are the end. It is cut out by hand: protobuf would copy
    a large body twice.
    """
    reader, count, place = Reader(data), 0, (len(data),) * 3
    while reader.left:
        start, tag, count = reader.at, reader.number(_WORD), count + 1
        if count > _FIELDS:
            raise FormatError(
                f"the payload has more than {_FIELDS} fields, of which at most {METRICS} are metrics"
            )
        kind = tag & 7
        if kind == 0:
            reader.number(_WORD)
        elif kind in _WIDTHS:
            reader.skip(_WIDTHS[kind])
        elif kind == 2:
            length = reader.number(len(data))
            if tag >> 3 == _BODY_FIELD:
                place = start, reader.at, reader.at + length
            reader.skip(length)
        else:
            raise FormatError(f"not a payload: a field of the unknown kind {kind}")
    return place
