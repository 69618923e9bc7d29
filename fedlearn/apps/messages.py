"""What a message carries, as bytes: each record whole, or as the difference from another.

Records travel as Flower's own protobuf has them, exact. With a codec, an ArrayRecord whose
names, shapes and dtypes the other end holds already travels as the difference from what it
holds (`fedlearn.apps.differences`). The bytes:

content  1 length · records in Flower's protobuf · for each difference:
         1 length · record's name · 1 length · base's name · 1 length · payload of docs/wire.md

Lengths are varints. Of a record that is a difference, the protobuf has what is no float. A
first record has the base `NOTHING`, zeros; the protobuf then has its floats' names, dtypes
and shapes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedlearn.apps import differences, private
from fedlearn.codec.bits import Reader
from fedlearn.errors import FormatError, PayloadError
from fedlearn.system.varint import varint

Record = ArrayRecord | MetricRecord | ConfigRecord

# The base of a record whose like the other end does not hold. No record's name has a zero
# byte.
NOTHING = "\0"

# More bytes than a message can have: what the reader takes for a length at most.
_MOST = 1 << 40


@dataclass(frozen=True)
class Part:
    """One record of a content as it was when it was sent: its name and its bytes.

    data: of a protobuf RecordDict that holds this record alone; several of them one after
    another are a RecordDict of all.
    """

    name: str
    data: bytes
    is_arrays: bool

    @cached_property
    def digest(self) -> str:
        """Return a name of the record's bytes, 32 hex digits."""
        return hashlib.sha256(self.data).hexdigest()[:32]

    @cached_property
    def arrays(self) -> ArrayRecord:
        """Return the record; nobody may change it."""
        return private.of_bytes(self.data).array_records[self.name]


@dataclass
class Packing:
    """Makes parts of contents, each ArrayRecord once while its arrays stay the same.

    A strategy sends one model to all nodes, whose bytes would otherwise be made for each.
    """

    # The record's id → its arrays' bytes, which are held so that no id is used again, and
    # the part.
    _known: dict[int, tuple[ArrayRecord, list[bytes], Part]] = field(
        default_factory=dict
    )

    def of(self, content: RecordDict) -> list[Part]:
        """Return a content's records; raises PayloadError for what Flower cannot carry."""
        return [self._part(name, record) for name, record in content.items()]

    def forget(self) -> None:
        """Let go of the records: others follow."""
        self._known.clear()

    def _part(self, name: str, record: Record) -> Part:
        if not isinstance(record, ArrayRecord):
            return Part(name, private.to_bytes(RecordDict({name: record})), False)
        pieces = [array.data for array in record.values()]
        before = self._known.get(id(record))
        # By identity: bytes never change, but an app may put others in their place.
        if before is not None and before[2].name == name and _same(before[1], pieces):
            return before[2]
        # Made once for all nodes of a round.
        data = private.to_bytes(RecordDict({name: record}))
        part = Part(name, data, True)
        self._known[id(record)] = record, pieces, part
        return part


def _same(pieces: list[bytes], others: list[bytes]) -> bool:
    if len(pieces) != len(others):
        return False
    return all(a is b for a, b in zip(pieces, others, strict=True))


@dataclass(frozen=True)
class Sent:
    """A content on its way.

    payload: its bytes. raw_bytes: of the same content, whole. bases: record → the record
    of the other end that it is a difference from.
    """

    payload: bytes
    raw_bytes: int
    bases: Mapping[str, str] = field(default_factory=dict)


def whole(parts: list[Part]) -> Sent:
    """Return parts on their way as they are."""
    payload = _joined([part.data for part in parts], [])
    return Sent(payload, len(payload))


def packed(
    content: RecordDict,
    bases: Mapping[str, ArrayRecord],
    codec: str,
    seed: int,
    first: str = "",
) -> Sent:
    """Return a content on its way, its records as differences where that is possible.

    bases: what the other end holds. A record is taken from the base of its own name, or
    else from the first that is alike. codec: "" sends everything whole. first: the codec of
    records that are alike to no base; "": whole. Raises PayloadError for records that Flower
    cannot carry.
    """
    raw = private.to_bytes(content)
    # Nothing is parsed or compared where nothing is encoded.
    if not codec:
        payload = _joined([raw], [])
        return Sent(payload, len(payload))
    records = RecordDict()
    frames: list[bytes] = []
    sources: dict[str, str] = {}
    for name, record in content.items():
        frame = _frame(name, record, bases, codec, seed)
        if frame is None and first:
            frame = _first_frame(record, first, seed)
        if frame is None:
            records[name] = record
            continue
        base, data, remainder = frame
        # Empty as a rule: the protobuf keeps the record's name and place.
        records[name] = remainder
        if base != NOTHING:
            sources[name] = base
        frames += [name.encode(), base.encode(), data]
    # In protobuf's order of the records, whichever of them are differences.
    payload = _joined([private.to_bytes(records)], frames)
    return Sent(payload, len(_joined([raw], [])), sources)


def _frame(
    name: str,
    record: Record,
    bases: Mapping[str, ArrayRecord],
    codec: str,
    seed: int,
) -> tuple[str, bytes, ArrayRecord] | None:
    """Return a record's base, its difference and the rest; None where it travels whole."""
    if not isinstance(record, ArrayRecord):
        return None
    # That of its own name first: a strategy mostly answers with what it was sent.
    for base in sorted(bases, key=lambda base_name: base_name != name):
        names = differences.alike(record, bases[base])
        if not names:
            continue
        try:
            data = differences.encoded(record, bases[base], names, codec, seed)
        except PayloadError:
            # NaN, or beyond the codec's range: it must arrive as it is.
            return None
        remainder = {k: array for k, array in record.items() if k not in names}
        return base, data, ArrayRecord(remainder)
    return None


def _first_frame(
    record: Record, codec: str, seed: int
) -> tuple[str, bytes, ArrayRecord] | None:
    """Return a first record as its difference from zeros; None where it travels whole."""
    if not isinstance(record, ArrayRecord):
        return None
    form, names = differences.form_of(record)
    if not names:
        return None
    base, _ = differences.zeros(form)
    try:
        data = differences.encoded(record, base, names, codec, seed)
    except PayloadError:
        # NaN, or beyond the codec's range: it must arrive as it is.
        return None
    return NOTHING, data, form


def unpacked(
    payload: bytes,
    bases: Mapping[str, ArrayRecord],
    originals: Mapping[str, ArrayRecord] | None = None,
) -> RecordDict:
    """Return the content of a payload.

    bases: the records that the other end holds. originals: what these are copies of; a
    difference from the copy of its own name is added to the original. None: this is a
    message to a node, which alone may have first records. Raises FormatError for damaged
    bytes.
    """
    reader = Reader(payload)
    content = private.of_bytes(_piece(reader))
    while reader.left:
        name = _piece(reader).decode()
        base = _piece(reader).decode()
        data = _piece(reader)
        remainder = content.array_records[name]
        if base == NOTHING and originals is None:
            zeros, rest = differences.zeros(remainder)
            content[name] = differences.decoded(data, zeros, rest)
            continue
        if base not in bases:
            raise FormatError(
                f"the record '{name}' is a difference from no record here"
            )
        # Of another name it is a base by its form alone, and no update of it.
        onto = (originals or {}).get(name) if base == name else None
        rest = dict(remainder.items())
        content[name] = differences.decoded(data, bases[base], rest, onto)
    return content


def bases_of(payload: bytes) -> dict[str, str]:
    """Return the records of a payload that are differences, each with its base's name.

    First records, which have no base, are left out.
    """
    reader = Reader(payload)
    _piece(reader)
    sources: dict[str, str] = {}
    while reader.left:
        name = _piece(reader).decode()
        base = _piece(reader).decode()
        _piece(reader)
        if base != NOTHING:
            sources[name] = base
    return sources


def raw_bytes(payload: bytes, bases: Mapping[str, Part]) -> int:
    """Return about the bytes of a payload's content, were it sent whole.

    A record that is a difference is as large as its base.
    """
    reader = Reader(payload)
    protobuf_bytes = len(_piece(reader))
    total = protobuf_bytes + len(varint(protobuf_bytes))
    for base in bases_of(payload).values():
        total += len(bases[base].data)
    return total


def _joined(records: list[bytes], frames: list[bytes]) -> bytes:
    size = sum(map(len, records))
    pieces = [varint(size), *records]
    for frame in frames:
        pieces += [varint(len(frame)), frame]
    return b"".join(pieces)


def _piece(reader: Reader) -> bytes:
    # Each length is checked against the bytes that are there.
    return reader.take(reader.number(_MOST))
