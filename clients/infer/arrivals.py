"""What comes to a stream, one sample after another, and where it comes from."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from fedlearn.clients.infer.tensors import Array

_KEY_DIGITS = 16


class Kind(enum.Enum):
    """What an array of a source is, before it is made fit for a model."""

    # (C, H, W) uint8.
    PICTURE = "picture"
    # float64, in any layout.
    NUMBERS = "numbers"
    # In the sample's own shape and dtype.
    ARRAY = "array"


# `eq=False`: one sample is never another.
@dataclass(frozen=True, eq=False, slots=True)
class Arrival:
    """A sample that has come.

    key: the same whenever this sample comes again. time_s: when it came, since 1970. read:
    returns its array; raises DataError or OSError. receipt: what its source needs to let go
    of it. may_be_again: another sample of the same key would be this one.
    """

    name: str
    key: str
    time_s: float
    kind: Kind
    read: Callable[[], Array]
    receipt: object = None
    may_be_again: bool = True


class ArrivalSource(Protocol):
    """A place that samples come from, and that knows which of them are answered."""

    @property
    def is_over(self) -> bool:
        """Tell whether nothing more will come."""

    def take(self, most: int) -> list[Arrival]:
        """Return samples that have come and are not noted; none: wait no longer than a second.

        Raises UserError or RunError where no sample can come any more.
        """

    def note(self, arrivals: Sequence[Arrival]) -> None:
        """Note samples as answered, on the disk where they could come again.

        Raises OSError.
        """

    def is_noted(self, key: str) -> bool:
        """Tell whether a sample is noted; of the last group, it is always known."""

    def close(self) -> None:
        """Let go of what is open."""


def key_of(*parts: object) -> str:
    """Return a key of 16 hex digits for a sample that these parts name."""
    text = "\0".join(map(str, parts))
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[
        :_KEY_DIGITS
    ]
