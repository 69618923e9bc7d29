"""Text from strangers, made fit for a terminal: escaped, on one line, and of some length."""

from __future__ import annotations

from collections.abc import Iterable

# Characters of a reason that are recorded and shown: some lines of a terminal. Some of
# torch's texts have 14,000.
REASON_CHARACTERS = 500


def printable(text: str) -> str:
    r"""Return a text with every character that a terminal cannot show as an escape.

    A line feed becomes ``\n``, the start of a colour code ``\x1b``. So what an agent, a file
    or a user's code says stays on one line and cannot steer the terminal.
    """
    return "".join(
        character if character.isprintable() else repr(character)[1:-1]
        for character in text
    )


def shortened(text: str, characters: int = REASON_CHARACTERS) -> str:
    """Return a text as one printable line of at most so many characters.

    A longer one keeps its begin and its end: what was tried often stands first, and the
    cause last.
    """
    # Before the text is cleaned: one of megabytes must not cost a second.
    if len(text) > 8 * characters:
        text = f"{text[: 4 * characters]} {text[-4 * characters :]}"
    line = printable(" ".join(text.split()))
    if len(line) <= characters:
        return line
    end = characters // 4
    return f"{line[: characters - end - 3]} … {line[-end:]}"


def is_number(text: str) -> bool:
    """Tell whether a text is a number, and no column's name."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def first_few(values: Iterable[object], limit: int = 8) -> str:
    """Return the first ``limit`` values separated by commas, and how many more there are."""
    texts = [str(value) for value in values]
    shown = ", ".join(texts[:limit])
    hidden = len(texts) - limit
    if hidden > 0:
        return f"{shown} and {hidden} more"
    return shown
