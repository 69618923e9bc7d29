"""Characters of LEAF's texts as bytes: those of Latin-1 are their own, all others get free ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from fedlearn.errors import DataError

# Characters of Latin-1 have these numbers; 0 is padding to whoever reads text.
LATIN_1 = range(1, 256)

# Bytes that no letter stands for, in which others are put first: the control characters.
FREE_FIRST = [*range(128, 160), *range(1, 32), 127]

# Characters that a note names.
NAMED = 8


class Texts(Protocol):
    """Lists of strings."""

    @property
    def inputs(self) -> Sequence[Any]:
        """Return the lines."""

    @property
    def targets(self) -> Sequence[Any]:
        """Return the characters that follow."""


def alphabet(folder: Path, parts: Sequence[Texts]) -> tuple[dict[int, int], list[str]]:
    """Return the byte of each character beyond Latin-1, by its number, and notes on them.

    The bytes follow from the characters of all parts together, in the order of their numbers,
    so that each machine reads one folder in the same way. Raises DataError where there are
    more distinct characters than bytes.
    """
    letters: set[str] = set()
    for part in parts:
        for text in [*_strings(part.inputs), *_strings(part.targets)]:
            letters.update(text)
    numbers = {ord(letter) for letter in letters}
    foreign = sorted(numbers - set(LATIN_1))
    if not foreign:
        return {}, []
    used = numbers & set(LATIN_1)
    free = [byte for byte in [*FREE_FIRST, *LATIN_1] if byte not in used]
    # Each byte once: the control characters stand in both lists.
    free = list(dict.fromkeys(free))
    if len(foreign) > len(free):
        raise DataError(
            f"{folder}: its texts have {len(numbers)} distinct characters, and a byte holds "
            f"{len(LATIN_1)}; leave out or replace the rare ones, such as {_named(foreign)}"
        )
    note = (
        f"{folder}: characters that are no single byte ({_named(foreign)}) are read as bytes "
        "that the texts do not use"
    )
    return dict(zip(foreign, free, strict=False)), [note]


def _strings(values: Iterable[Any]) -> list[str]:
    """Return the strings among values; whatever else stands there is refused later."""
    return [value for value in values if isinstance(value, str)]


def _named(numbers: Sequence[int]) -> str:
    """Return a few characters in words."""
    names = [f"U+{number:04X}" for number in numbers[:NAMED]]
    more = ["…"] if len(numbers) > NAMED else []
    return ", ".join([*names, *more])
