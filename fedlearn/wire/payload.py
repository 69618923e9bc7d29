"""Payloads: a model's state, or a client's update, as bytes that describe themselves.

The message is `payload.proto`; docs/wire.md explains it byte by byte. A decoder trusts
nothing: every size comes from the receiver's own layout, every value is checked to be
finite, and each refusal is a typed error.

Legend: P floats, Q integers of the layout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from fedlearn.arrays import Change, Layout, Sparse, State, magnitude
from fedlearn.codec import ZERO, Context, canonical
from fedlearn.codec import codec as find_codec
from fedlearn.errors import FormatError, PayloadError, SchemaError
from fedlearn.wire import payload_pb2
from fedlearn.wire.hashing import digest
from fedlearn.wire.header import DIFFERENCE, SNAPSHOT, Header, check_header
from fedlearn.wire.message import FORMAT, Bytes, seal, sealed_length, unseal

# Bytes that a payload may have beyond twice its model's: metrics, and the overhead of
# codecs on tiny models.
MARGIN = 1 << 20

# The codec whose bodies are the values themselves: they are not copied.
RAW = "raw32"

_NOT_FINITE = "the payload holds values that are NaN or infinite"


def encode(
    layout: Layout,
    header: Header,
    state: State,
    moved: NDArray[np.float32] | None = None,
) -> bytes:
    """Return the payload of a state (SNAPSHOT) or of a difference (UPDATE, GRADIENT).

    moved: (P,) the model that a difference starts from minus the run's first model, for the
    codecs that use it. Raises PayloadError when a value cannot be carried: not finite, or
    out of the codec's range.
    """
    _check_finite(state.floats)
    header = replace(header, codec=canonical(header.codec))
    body = _encode_body(layout, header, state.floats, moved)
    return _seal(layout, header, state, body)


def raw_length(layout: Layout, header: Header) -> int:
    """Return the bytes of the payload that `encode` makes of any values with raw32.

    header: of that payload.
    """
    buffers = layout.buffers_at.size
    # Only sizes count, so zeros stand for any values.
    empty_integers = np.zeros(layout.integers, np.int64)
    empty_buffers = np.zeros(buffers, np.float32)
    message = _message(layout, header, empty_integers, empty_buffers)
    return sealed_length(int(message.ByteSize()), 4 * (layout.floats - buffers))


def encode_model(
    layout: Layout, state: State, rounds_done: int, codec: str, seed: int
) -> tuple[bytes, Header, State]:
    """Return a whole model's payload, its header, and the state that receivers decode.

    Raises PayloadError as `encode` does.
    """
    _check_finite(state.floats)
    # The digest follows once the floats are decoded.
    header = Header(SNAPSHOT, rounds_done, bytes(8), canonical(codec), seed)
    body = _encode_body(layout, header, state.floats, None)
    # Decoded here as receivers do: the digest is of what they will hold.
    buffers = state.floats[layout.buffers_at]
    floats = _decode_floats(layout, header, body, buffers, None)
    if isinstance(floats, Sparse):
        floats = floats.dense()
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
    """Return the payload that leads a receiver from ``base`` towards ``target``.

    Returns its header and the state that it leads to as well: base + decoded(encoded(target
    − base)), the same bits at both ends; buffers and integers travel as values. A receiver
    that holds the target already is sent no values at all.

    base_digest: of the base's floats. moved: (P,) the base minus the run's first model.
    Raises PayloadError as `encode` does.
    """
    _check_finite(target.floats)
    # An overflow is found by the check that follows.
    with np.errstate(over="ignore"):
        change = target.floats - base.floats
    _check_finite(change)
    # Bits are compared, because −0.0 is another model than 0.0.
    same = np.array_equal(target.floats.view(np.uint32), base.floats.view(np.uint32))
    codec = ZERO if same else canonical(codec)
    header = Header(
        DIFFERENCE, rounds_done, bytes(8), codec, seed, base_digest=base_digest
    )
    body = _encode_body(layout, header, change, moved)
    buffers = target.floats[layout.buffers_at]
    floats = _arrive(layout, header, body, base.floats, buffers, moved)
    # Nothing changes, so nothing is hashed again.
    arrived_digest = base_digest if codec == ZERO else digest(floats)
    header = replace(header, digest=arrived_digest)
    return _seal(layout, header, target, body), header, State(floats, target.integers)


def decode_difference(
    layout: Layout,
    data: bytes,
    base: NDArray[np.float32],
    base_digest: bytes,
    moved: NDArray[np.float32] | None = None,
) -> tuple[Header, State]:
    """Return the model that a difference leads to from ``base`` (P,).

    The other arguments are as in `encode_difference`. Raises SchemaError when the sender
    meant another base, FormatError when the result is not what was sent: the receiver then
    asks for a whole model.
    """
    payload = _open(layout, data, (DIFFERENCE,))
    header = payload.header
    # Before the body is decoded: from another base it leads to another model.
    if header.base_digest != base_digest:
        raise SchemaError(
            "the difference is against another model than the one held here"
        )
    floats = _arrive(layout, header, payload.body, base, payload.buffers, moved)
    # Both ends computed the same bits, or one of them is at fault.
    if digest(floats) != header.digest:
        raise FormatError(
            "the model arrived at differs from the one that was sent: "
            "its digest is another"
        )
    return header, State(floats, payload.integers)


def decode_model(layout: Layout, data: Bytes) -> tuple[Header, State]:
    """Return a whole model and its header.

    Raises what `decode` raises, and FormatError when the floats are not what was sent.
    """
    header, change = decode(layout, data, (SNAPSHOT,))
    state = change.dense()
    if digest(state.floats) != header.digest:
        raise FormatError(
            "the decoded model differs from the one that was sent: its digest is another"
        )
    return header, state


def read_header(data: bytes) -> Header:
    """Return what a payload says of itself.

    Raises FormatError for bytes whose checksum or format is wrong.
    """
    return read_message(data)[0]


def read_message(data: bytes) -> tuple[Header, payload_pb2.Payload]:
    """Return `read_header` and the whole message; raises FormatError."""
    message, body = unseal(data)
    message.body = bytes(body)
    return Header.of(message), message


def decode(
    layout: Layout,
    data: Bytes,
    kinds: tuple[int, ...],
    moved: NDArray[np.float32] | None = None,
    expected_codec: str | None = None,
) -> tuple[Header, Change]:
    """Return a payload's header and its values; with raw32 they lie where the payload lies.

    kinds: what the receiver is ready to take. moved: as in `encode`. expected_codec: what
    was asked for; another codec may take more memory, and is refused before its body is
    looked at. Raises FormatError for bytes that are no sound payload of these kinds,
    SchemaError for a payload of another model.
    """
    payload = _open(layout, data, kinds)
    header = payload.header
    if expected_codec is not None and header.codec != canonical(expected_codec):
        raise FormatError(
            f"the payload is encoded by {header.codec}, not by {expected_codec} as asked"
        )
    floats = _decode_floats(layout, header, payload.body, payload.buffers, moved)
    change = Change(floats, payload.integers)
    if not math.isfinite(change.largest):
        raise FormatError(_NOT_FINITE)
    return header, change


@dataclass(frozen=True)
class _Opened:
    """The parts of a payload whose sizes are its receiver's.

    buffers: those of the floats that no optimiser trains. integers: (Q,).
    """

    header: Header
    body: Bytes
    buffers: NDArray[np.float32]
    integers: NDArray[np.int64]


def _open(layout: Layout, data: Bytes, kinds: tuple[int, ...]) -> _Opened:
    """Return the parts of a payload of this layout; raises FormatError, SchemaError."""
    # Before a byte is looked at: what is longer is an attack on the memory.
    if len(data) > 2 * layout.raw_bytes + MARGIN:
        raise FormatError(
            f"a payload of {len(data)} bytes where the model has {layout.raw_bytes}"
        )
    message, body = unseal(data)
    # From here on each size is compared with the layout's before anything is made of it.
    if message.kind not in kinds:
        raise FormatError(
            f"a payload of kind {message.kind} came where {kinds} is expected"
        )
    _check_schema(layout, message)
    _check_length("integers", message.integers, 8 * layout.integers)
    _check_length("buffers", message.buffers, 4 * layout.buffers_at.size)
    check_header(message)
    return _Opened(
        Header.of(message),
        body,
        # Copies: what lies in a message cannot be written to.
        np.frombuffer(message.buffers, "<f4").astype(np.float32),
        np.frombuffer(message.integers, "<i8").astype(np.int64),
    )


def _check_schema(layout: Layout, message: payload_pb2.Payload) -> None:
    """Raise SchemaError for a payload of another model."""
    schema = message.schema.to_bytes(8, "little")
    if schema != layout.schema or message.parameters != layout.floats:
        raise SchemaError(
            f"the payload is for another model ({message.parameters} floats, "
            f"schema {schema.hex()}; here {layout.floats}, {layout.schema.hex()})"
        )


def _check_length(name: str, data: bytes, length: int) -> None:
    """Raise FormatError for a field that has not exactly this length."""
    if len(data) != length:
        raise FormatError(f"{len(data)} bytes of {name} where the model has {length}")


def _encode_body(
    layout: Layout,
    header: Header,
    floats: NDArray[np.float32],
    moved: NDArray[np.float32] | None,
) -> Bytes:
    """Return the trained ones of the floats (P,) as the header's codec encodes them."""
    trained = floats[layout.trained_at]
    if header.codec == RAW:
        # No copy where the floats are in one piece and little-endian.
        return np.ascontiguousarray(trained, "<f4").view(np.uint8).data
    context = _context(layout, moved)
    return find_codec(header.codec).encode(trained, header.seed, context)


def _decode_floats(
    layout: Layout,
    header: Header,
    body: Bytes,
    buffers: NDArray[np.float32],
    moved: NDArray[np.float32] | None,
) -> NDArray[np.float32] | Sparse:
    """Return all P floats of an encoded body and the buffers; raises FormatError.

    The floats may not be finite.
    """
    # raw32 takes a view as well: its floats lie where the payload lies.
    encoded = cast(bytes, body) if header.codec == RAW else bytes(body)
    codec = find_codec(header.codec)
    trained = codec.decode(encoded, header.seed, _context(layout, moved))
    places = layout.trained_at
    # Without buffers the trained floats are all floats.
    if isinstance(places, slice):
        return trained
    if isinstance(trained, Sparse):
        indices = np.concatenate([places[trained.indices], layout.buffers_at])
        values = np.concatenate([trained.values, buffers])
        # `Sparse` wants increasing indices.
        order = np.argsort(indices, kind="stable")
        return Sparse(indices[order], values[order], layout.floats)
    floats = np.empty(layout.floats, np.float32)
    floats[places] = trained
    floats[layout.buffers_at] = buffers
    return floats


def _context(layout: Layout, moved: NDArray[np.float32] | None) -> Context:
    """Return what a codec may know: the shapes, and the movement of trained floats."""
    # A codec never sees buffers, so their movement would be out of place.
    trained = None if moved is None else moved[layout.trained_at]
    return Context(layout.trained_shapes, trained)


def _arrive(
    layout: Layout,
    header: Header,
    body: Bytes,
    base: NDArray[np.float32],
    buffers: NDArray[np.float32],
    moved: NDArray[np.float32] | None,
) -> NDArray[np.float32]:
    """Return the floats (P,) that a difference leads to.

    Both ends call this, so both arrive at the same bits. Raises FormatError.
    """
    floats = _decode_floats(layout, header, body, buffers, moved)
    change = Change(floats, np.empty(0, np.int64))
    if not math.isfinite(change.largest):
        raise FormatError(_NOT_FINITE)
    # What overflows is found by the check at the end, as an error of ours.
    with np.errstate(over="ignore", invalid="ignore"):
        arrived = change.after(base)
    # Buffers travel as values, which replace those held.
    arrived[layout.buffers_at] = buffers
    if not np.isfinite(arrived).all():
        raise FormatError("the difference leads to values that are NaN or infinite")
    return arrived


def _seal(layout: Layout, header: Header, state: State, body: Bytes) -> bytes:
    """Return the payload of an encoded body; buffers and integers are the state's."""
    buffers = state.floats[layout.buffers_at]
    return seal(_message(layout, header, state.integers, buffers), body)


def _message(
    layout: Layout,
    header: Header,
    integers: NDArray[np.int64],
    buffers: NDArray[np.float32],
) -> payload_pb2.Payload:
    """Return the message without its body and checksum.

    integers: (Q,). buffers: those of the floats that no optimiser trains.
    """
    message = payload_pb2.Payload(
        format=FORMAT,
        schema=int.from_bytes(layout.schema, "little"),
        parameters=layout.floats,
        integers=np.ascontiguousarray(integers, "<i8").tobytes(),
        buffers=np.ascontiguousarray(buffers, "<f4").tobytes(),
    )
    header.fill(message)
    return message


def _check_finite(floats: NDArray[np.float32]) -> None:
    """Raise PayloadError for values that are NaN or infinite."""
    if not math.isfinite(magnitude(floats)):
        count = np.count_nonzero(~np.isfinite(floats))
        raise PayloadError(f"{count} of {floats.size} values are NaN or infinite")
