"""A program's values as those of TOML: what a config can hold, be written as, and read from."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from os import PathLike
from typing import Any

from fedlearn.errors import ConfigError

# TOML's whole numbers have 64 bits.
_INTEGER_BITS = 64


def plain_table(table: Mapping[Any, Any], place: str) -> dict[str, Any]:
    """Return a table of TOML's values alone, without the keys that are None.

    numpy's numbers and arrays become Python's, and paths texts. TOML has no null, so None
    is a key that is left out. place: for messages. Raises ConfigError for anything else: a
    run that was recorded with it could not be read again.
    """
    plain: dict[str, Any] = {}
    for key, value in table.items():
        if not isinstance(key, str):
            raise ConfigError(f"{place}: the key {key!r:.40} is not a text")
        if value is not None:
            plain[key] = plain_value(value, f"{place}: '{key}'")
    return plain


def plain_value(value: Any, place: str) -> Any:
    """Return a value of TOML; see `plain_table`."""
    if isinstance(value, bool | float | datetime.date | datetime.time):
        # Not numpy's float64, which is a float too and would be written by its own name.
        return float(value) if isinstance(value, float) else value
    if isinstance(value, int):
        return _integer(value, place)
    if isinstance(value, str):
        return _text(value, place)
    if isinstance(value, PathLike):
        return _text(str(value), place)
    if isinstance(value, Mapping):
        return plain_table(value, place)
    if isinstance(value, list | tuple):
        return [plain_value(element, place) for element in value]
    # numpy's numbers and arrays, known by their method: no numpy is needed to read a config.
    if hasattr(value, "tolist") and hasattr(value, "dtype"):
        return plain_value(value.tolist(), place)
    raise ConfigError(
        f"{place}: a {type(value).__name__} cannot stand in a config; give a number, a "
        "text, a boolean, a list or a table"
    )


def _integer(value: int, place: str) -> int:
    if value.bit_length() >= _INTEGER_BITS:
        raise ConfigError(f"{place}: a whole number of a config has at most 64 bits")
    return int(value)


def _text(value: str, place: str) -> str:
    # Python hands over bytes that are no UTF-8 as lone surrogates, which no file of text
    # can hold.
    if value != value.encode(errors="replace").decode():
        raise ConfigError(f"{place}: {value!a:.60} is not UTF-8 text")
    return str(value)
