"""Protobuf messages read by hand: of the fields that are known, and of no others.

The wire format is Google's, "Protocol Buffers: Encoding". A message is read when somebody
looks into it, so the memory that it takes is about that of its bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from fedlearn.errors import PackageError

Schemas = Mapping[str, Mapping[int, tuple[str, str]]]
"""Message → field number → (name, kind).

Kinds: whole, text, data (bytes that are not looked into), float, or the name of a message;
a star after it: any number of them.
"""

_VARINT: Final = 0
_FIXED64: Final = 1
_BYTES: Final = 2
_FIXED32: Final = 5

# Of a varint of 64 bits.
_LONGEST_VARINT = 10

# Kinds of numbers → the wire type of one alone. Several may be packed into bytes.
_NUMBERS: Final = {"whole": _VARINT, "float": _FIXED32, "double": _FIXED64}


class Message:
    """The fields of one message."""

    def __init__(
        self, data: memoryview, name: str, schemas: Schemas, file: str
    ) -> None:
        """Read a message. file: named in errors. Raises PackageError, "graph"."""
        self._schemas = schemas
        self._file = file
        self._values: dict[str, list[int | memoryview]] = {}
        self._messages: dict[str, str] = {}
        kinds = schemas[name]
        for number, wire, value in self._fields(data):
            if number not in kinds:
                raise self._wrong(f"has a field {number} in its {name}")
            field = kinds[number][0]
            kind = kinds[number][1].removesuffix("*")
            if wire not in (_BYTES, _NUMBERS.get(kind, _BYTES)):
                raise self._wrong(f"has '{field}' of another type in its {name}")
            if kind in schemas:
                self._messages[field] = kind
            values = self._values.setdefault(field, [])
            values.append(value)
            # Of two, one reader takes the last, and another joins them.
            if len(values) > 1 and not kinds[number][1].endswith("*"):
                raise self._wrong(f"has '{field}' twice in its {name}")

    def whole(self, name: str) -> int:
        """Return a whole number; 0 where it is missing."""
        for number in self.wholes(name):
            return number
        return 0

    def wholes(self, name: str) -> list[int]:
        """Return whole numbers, each signed with 64 bits."""
        numbers = []
        for value in self._values.get(name, []):
            if isinstance(value, int):
                numbers.append(_signed(value))
                continue
            start = 0
            while start < len(value):
                number, start = self._varint(value, start)
                numbers.append(_signed(number))
        return numbers

    def count(self, name: str, value_bytes: int) -> int:
        """Return how many numbers a field has; value_bytes: of each, 0 of varints."""
        total = 0
        for value in self._values.get(name, []):
            if isinstance(value, int):
                total += 1
            elif value_bytes:
                total += len(value) // value_bytes
            else:
                # The last byte of a varint is below 128.
                total += sum(byte < 128 for byte in value)
        return total

    def text(self, name: str) -> str:
        """Return a text; "" where it is missing. Raises PackageError for one of no UTF-8."""
        try:
            return bytes(self.data(name)).decode()
        except UnicodeDecodeError:
            raise self._wrong(f"has a '{name}' that is no text") from None

    def data(self, name: str) -> memoryview:
        """Return bytes; none where they are missing."""
        for value in self._values.get(name, []):
            if isinstance(value, memoryview):
                return value
        return memoryview(b"")

    def messages(self, name: str) -> Iterator[Message]:
        """Yield the messages of a field, read now. Raises PackageError."""
        for value in self._values.get(name, []):
            # Of a message's field there is nothing else.
            if isinstance(value, memoryview):
                yield Message(value, self._messages[name], self._schemas, self._file)

    def _fields(self, data: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
        """Yield each field: its number, its wire type and its value."""
        start = 0
        while start < len(data):
            tag, start = self._varint(data, start)
            wire = tag & 7
            if wire == _VARINT:
                value, start = self._varint(data, start)
                yield tag >> 3, wire, value
                continue
            if wire == _BYTES:
                length, start = self._varint(data, start)
            elif wire in (_FIXED32, _FIXED64):
                length = 4 if wire == _FIXED32 else 8
            else:
                raise self._wrong("is no protobuf that can be read")
            end = start + length
            if end > len(data):
                raise self._wrong("ends in the middle of a field")
            yield tag >> 3, wire, data[start:end]
            start = end

    def _varint(self, data: memoryview, start: int) -> tuple[int, int]:
        """Return a number that starts at a position, and where it ends."""
        number = 0
        for index in range(start, min(start + _LONGEST_VARINT, len(data))):
            byte = data[index]
            number |= (byte & 127) << (7 * (index - start))
            if byte < 128:
                return number & 0xFFFF_FFFF_FFFF_FFFF, index + 1
        raise self._wrong("has a number that does not end")

    def _wrong(self, what: str) -> PackageError:
        return PackageError("graph", f"{self._file} {what}")


def _signed(number: int) -> int:
    return number - 2**64 if number >= 2**63 else number
