"""Writing a config as TOML, every default included."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from typing import Any

from fedlearn.config.schema import Tables

# Tables below this depth are written inline: [data.partition] is the deepest header.
_HEADER_DEPTH = 2


def to_toml(experiment: Tables) -> str:
    """Return the experiment as TOML with every default written out.

    Reading the text gives the same experiment.
    """
    lines: list[str] = []
    # TOML has no null: a key without a value is left out.
    _add_table(experiment.model_dump(exclude_none=True), (), lines)
    return "\n".join(lines).strip() + "\n"


def _add_table(
    table: Mapping[str, Any], path: tuple[str, ...], lines: list[str]
) -> None:
    """Add a table's header and values to the lines, then the tables in it."""
    inline = len(path) >= _HEADER_DEPTH
    values = {}
    for key, value in table.items():
        if inline or not isinstance(value, dict):
            values[key] = value
    # A table of tables alone needs no header; an empty one does, or it would be lost.
    if path and (values or not table):
        lines += ["", f"[{'.'.join(path)}]"]
    lines += [f"{_key(key)} = {toml_value(value)}" for key, value in values.items()]
    for key, value in table.items():
        if key not in values:
            _add_table(value, (*path, _key(key)), lines)


def _key(key: str) -> str:
    # Only letters, digits, _ and - can stand bare in TOML.
    return key if re.fullmatch(r"[\w-]+", key) else toml_value(key)


def toml_value(value: Any) -> str:
    """Return a value in TOML: numbers, booleans, strings, times, and lists or tables."""
    # Before the numbers, because Python counts its booleans among them.
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{_escaped(value)}"'
    if isinstance(value, list | tuple):
        return f"[{', '.join(toml_value(element) for element in value)}]"
    if isinstance(value, dict):
        pairs = (f"{_key(name)} = {toml_value(v)}" for name, v in value.items())
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    # The shortest digits that read back as the same number; inf and nan are TOML's
    # words, too.
    return repr(value)


def _escaped(text: str) -> str:
    """Return text with control characters, quotes and backslashes as ``\\uXXXX``."""
    return re.sub(
        r'[\x00-\x1f\x7f"\\]', lambda match: f"\\u{ord(match.group()):04x}", text
    )
