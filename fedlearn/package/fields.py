"""A JSON object read field by field, each of one type and within limits.

What is missing, of another type, out of its range or unknown is refused by its place.
"""

from __future__ import annotations

import math
import re
import unicodedata
from typing import Any

from fedlearn.errors import PackageError
from fedlearn.text import first_few, shortened

# Whole numbers up to here are the same in every JSON reader (RFC 8259, section 6).
LARGEST_WHOLE = 2**53 - 1

_SHA256 = re.compile(r"[0-9a-f]{64}")

# Unicode's categories: control, format, surrogates, and ends of lines and paragraphs.
_STEERING = ("Cc", "Cf", "Cs", "Zl", "Zp")

# Characters of a stranger's value in an error.
_SHOWN = 60


class Fields:
    """The fields of one object that are not read yet."""

    def __init__(self, value: Any, place: str) -> None:
        """Begin to read an object; place: its path, for errors. Raises PackageError."""
        if not isinstance(value, dict):
            raise _wrong(place, "is no object")
        self._place = place
        self._unread = dict(value)

    def end(self) -> None:
        """Raise PackageError for fields that nobody has read."""
        if self._unread:
            names = first_few([repr(shortened(name, _SHOWN)) for name in self._unread])
            raise _wrong(self._place, f"has unknown fields: {names}")

    def has(self, key: str) -> bool:
        """Tell whether a field is there that nobody has read."""
        return key in self._unread

    def value(self, key: str) -> Any:
        """Return a field of any type. Raises PackageError where it is missing."""
        if key not in self._unread:
            raise _wrong(self._place, f"lacks '{key}'")
        return self._unread.pop(key)

    def is_null(self, key: str) -> bool:
        """Tell whether a field is null, and take it as read if so."""
        if key in self._unread and self._unread[key] is None:
            del self._unread[key]
            return True
        return False

    def table(self, key: str) -> Fields:
        """Return the fields of an object in this one."""
        return Fields(self.value(key), self._at(key))

    def names(self, key: str, most: int) -> dict[str, Any]:
        """Return an object whose keys are names, at most so many."""
        value = self.value(key)
        if not isinstance(value, dict):
            raise _wrong(self._at(key), "is no object")
        self._check_count(key, len(value), most)
        return value

    def items(self, key: str, most: int, least: int = 0) -> list[Any]:
        """Return a list of ``least`` to ``most`` values."""
        value = self.value(key)
        if not isinstance(value, list):
            raise _wrong(self._at(key), "is no list")
        self._check_count(key, len(value), most, least)
        return value

    def text(self, key: str, most: int, pattern: re.Pattern[str] | None = None) -> str:
        """Return a text of at most so many characters, which fits a pattern whole."""
        return text_of(self.value(key), self._at(key), most, pattern)

    def texts(self, key: str, most: int, characters: int) -> tuple[str, ...]:
        """Return a list of at most so many texts of at most so many characters."""
        texts = []
        for index, value in enumerate(self.items(key, most)):
            texts.append(text_of(value, f"{self._at(key)}[{index}]", characters))
        return tuple(texts)

    def sha256(self, key: str) -> str:
        """Return 64 hex digits."""
        return self.text(key, 64, _SHA256)

    def whole(self, key: str, least: int = 0, most: int = LARGEST_WHOLE) -> int:
        """Return a whole number in a range."""
        value = self.value(key)
        # A boolean is an int to Python, and no number to a reader.
        if not isinstance(value, int) or isinstance(value, bool):
            raise _wrong(self._at(key), f"is no whole number: {_shown(value)}")
        if not least <= value <= most:
            raise _wrong(
                self._at(key), f"is not from {least} to {most}: {_shown(value)}"
            )
        return value

    def number(self, key: str, least: float, most: float) -> float:
        """Return a finite number in a range, as a float."""
        value = self.value(key)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise _wrong(self._at(key), f"is no number: {_shown(value)}")
        # Compared before it is converted: a long integer has no float.
        if not least <= value <= most or not math.isfinite(value):
            raise _wrong(
                self._at(key), f"is not from {least:g} to {most:g}: {_shown(value)}"
            )
        return float(value)

    def optional_number(self, key: str, least: float, most: float) -> float | None:
        """Return a number in a range; None for null."""
        if self.is_null(key):
            return None
        return self.number(key, least, most)

    def _at(self, key: str) -> str:
        return f"{self._place}.{key}"

    def _check_count(self, key: str, count: int, most: int, least: int = 0) -> None:
        if not least <= count <= most:
            raise _wrong(self._at(key), f"has {count} values, not {least} to {most}")


def text_of(
    value: Any, place: str, most: int, pattern: re.Pattern[str] | None = None
) -> str:
    """Return a text of at most so many characters, which fits a pattern whole.

    Raises PackageError with its place.
    """
    if not isinstance(value, str):
        raise _wrong(place, f"is no text: {_shown(value)}")
    if len(value) > most:
        raise _wrong(place, f"has {len(value)} characters, more than {most}")
    if pattern is None and not _is_plain(value):
        raise _wrong(place, f"has characters that steer a terminal: {_shown(value)}")
    if pattern is not None and not pattern.fullmatch(value):
        raise _wrong(place, f"is not of its form: {_shown(value)}")
    return value


def shape_of(value: Any, place: str, is_open: bool = False) -> tuple[int | None, ...]:
    """Return the shape of a tensor: at most 8 axes, each from 0 to 2³¹ - 1.

    is_open: null stands for an axis of any length. Raises PackageError with its place.
    """
    if not isinstance(value, list) or len(value) > 8:
        raise _wrong(place, f"is no shape of at most 8 axes: {_shown(value)}")
    for length in value:
        if length is None and is_open:
            continue
        is_whole = isinstance(length, int) and not isinstance(length, bool)
        if not is_whole or not 0 <= length < 2**31:
            raise _wrong(place, f"has an axis of length {_shown(length)}")
    return tuple(value)


def _is_plain(text: str) -> bool:
    """Tell whether a text has no control characters and none that change its direction."""
    if text.isascii():
        return text.isprintable()
    return not any(unicodedata.category(c) in _STEERING for c in text)


def _wrong(place: str, what: str) -> PackageError:
    return PackageError("manifest", f"{place} {what}")


def _shown(value: Any) -> str:
    """Return a stranger's value, short: never its whole text."""
    # The text of a long list or number would be made whole before it is cut.
    if isinstance(value, int | float | bool | None) and not isinstance(value, bool):
        if isinstance(value, int) and value.bit_length() > 200:
            return "a number of more than 60 digits"
        return repr(value)
    if isinstance(value, str):
        return repr(shortened(value[:1000], _SHOWN))
    if isinstance(value, bool):
        return str(value).lower()
    return f"a {type(value).__name__} of {len(value)}"
