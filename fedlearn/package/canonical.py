"""Canonical JSON: one value has one form in bytes, so that a hash stands for what is said.

Keys are sorted by code point, without spaces, in UTF-8; numbers are as Python writes them.
All else that JSON allows is refused when read. In the manner of RFC 8785 (JCS, 2020), which
differs in how it writes numbers.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from fedlearn.errors import PackageError

# Lists and objects in one another. A manifest has six, and a hostile one 100,000.
MOST_LEVELS = 16

# What stands between quotes, where a bracket opens nothing.
_TEXTS = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKETS = re.compile(rb"[\[\]{}]")


def dumps(value: Any) -> bytes:
    """Return the one form of a JSON value. Raises ValueError for what JSON cannot say."""
    text = json.dumps(
        value,
        sort_keys=True,
        ensure_ascii=False,
        allow_nan=False,
        separators=(",", ":"),
    )
    return text.encode()


def loads(data: bytes, what: str, most_bytes: int) -> Any:
    """Return the value of canonical bytes.

    what: names them in errors. Raises PackageError as `parse`, and for every other form
    than `dumps` gives.
    """
    value = parse(data, what, most_bytes)
    # Doubled keys, spaces, escapes and other forms of numbers all show here.
    if dumps(value) != data:
        raise PackageError(
            "canonical", f"{what} is not in its one form: sorted keys and no spaces"
        )
    return value


def parse(data: bytes, what: str, most_bytes: int) -> Any:
    """Return the value of JSON in any form.

    Raises PackageError for more bytes than ``most_bytes``, for what is no JSON, and for
    values that no other reader would read alike.
    """
    if len(data) > most_bytes:
        raise PackageError(
            "limits", f"{what} has {len(data):,} bytes, more than {most_bytes:,}"
        )
    _check_levels(data, what)
    try:
        value = json.loads(
            data.decode(),
            parse_constant=_refuse_constant,
            object_pairs_hook=_refuse_doubles,
        )
        # Half a surrogate, and a number that is infinite as a float.
        dumps(value)
    # Bytes, numbers and nesting that Python itself refuses.
    except (ValueError, RecursionError):
        raise PackageError("json", f"{what} is no JSON that can be read") from None
    return value


def _check_levels(data: bytes, what: str) -> None:
    """Refuse brackets in one another before a parser meets them. Raises PackageError."""
    level = 0
    for bracket in _BRACKETS.findall(_TEXTS.sub(b"", data)):
        level += 1 if bracket in b"[{" else -1
        if level > MOST_LEVELS:
            raise PackageError("limits", f"{what} nests more than {MOST_LEVELS} levels")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _refuse_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a key stands twice")
    return value
