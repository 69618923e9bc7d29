r"""Windows paths in TOML, where a backslash in "double quotes" begins an escape.

Most are no TOML then. Some are: "C:\temp" is a path with a tab in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from fedlearn.errors import ConfigError

_FIX = r"write a Windows path in single quotes, such as 'C:\data'"

# A drive or a share, with a control character that an escape has become.
_BROKEN_PATH = re.compile(r"([A-Za-z]:|\\).*[\x00-\x1f]", re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x1f]")


def fix_of(text: str, error: ValueError) -> str:
    """Return what to change where a backslash is at fault in TOML text; "" elsewhere."""
    line_number = re.search(r"at line (\d+)", str(error))
    lines = text.split("\n")
    if not line_number or int(line_number[1]) > len(lines):
        return ""
    return f"; {_FIX}" if "\\" in lines[int(line_number[1]) - 1] else ""


def check_paths(table: Mapping[str, Any], name: str) -> None:
    """Raise ConfigError for a path in which an escape has become a control character.

    name: of the file.
    """
    for key, value in _texts(table):
        is_path = key.rpartition(".")[2] == "path" and _CONTROL.search(value)
        if is_path or _BROKEN_PATH.match(value):
            raise ConfigError(
                f"{name}: '{key}': a backslash in double quotes begins an escape, and "
                f"{value!r} is what came of it; {_FIX}"
            )


def _texts(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield (dotted key, value) for each text of a table and of those in it."""
    for key, value in table.items():
        if isinstance(value, str):
            yield f"{prefix}{key}", value
        elif isinstance(value, Mapping):
            yield from _texts(value, f"{prefix}{key}.")
