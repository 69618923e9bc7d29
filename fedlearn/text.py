"""Text from strangers, made fit for a terminal: control characters escaped, long lists cut."""

from __future__ import annotations

from collections.abc import Iterable


def printable(text: str) -> str:
    r"""Return a text with every character that a terminal cannot show as an escape.

    A line feed becomes ``\n``, the start of a colour code ``\x1b``. So what an agent, a file
    or a user's code says stays on one line and cannot steer the terminal.
    """
    return "".join(
        character if character.isprintable() else repr(character)[1:-1]
        for character in text
    )


def first_few(values: Iterable[object], limit: int = 8) -> str:
    """Return the first ``limit`` values separated by commas, and how many more there are."""
    texts = [str(value) for value in values]
    shown = ", ".join(texts[:limit])
    hidden = len(texts) - limit
    if hidden > 0:
        return f"{shown} and {hidden} more"
    return shown
