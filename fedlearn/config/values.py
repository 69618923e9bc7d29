"""Tables of a user's own values, which a Flower app or strategy reads: `[client]` has four."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Values = dict[str, Any]
"""Key → text, number, true or false; or a list of these where the table takes lists."""

_SINGLE = (str, int, float, bool)


def flat_values(name: str, values: Mapping[str, Any], *, with_lists: bool) -> Values:
    """Return a table's values under keys with dots, as Flower names those of inner tables.

    name: of the table, for messages. Raises ValueError for a value that no Flower record
    holds.
    """
    flat: Values = {}
    # In order: a changed key stands after what it changes, and counts.
    for key, value in _pairs("", values):
        if not _is_value(value, with_lists):
            kinds = "text, a number, true or false"
            lists = ", or a list of one of these kinds" if with_lists else ""
            raise ValueError(
                f"{name} has '{key}' = {value!r:.60}; a value is {kinds}{lists}"
            )
        flat[key] = value
    return flat


def of_client(values: Mapping[str, Any], client: int) -> Values:
    """Return one client's values: of each list its own element."""
    # A list has as many values as there are clients, which is checked at the start.
    return {
        key: value[client] if isinstance(value, list) else value
        for key, value in values.items()
    }


def _pairs(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _pairs(f"{prefix}{key}.", value)
        else:
            yield f"{prefix}{key}", value


def _is_value(value: Any, with_lists: bool) -> bool:
    if not isinstance(value, list):
        return isinstance(value, _SINGLE)
    # A record of Flower's holds lists of one kind.
    kinds = {type(element) for element in value}
    return with_lists and len(kinds) <= 1 and kinds <= set(_SINGLE)
