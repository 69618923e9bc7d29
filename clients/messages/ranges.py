"""A set of whole numbers that come nearly in order, as the ranges that they fill."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator


class Ranges:
    """Whole numbers from 0, as sorted ranges that neither meet nor overlap.

    A million numbers without a gap are one range: what was missed takes memory, and not
    what came. A set of integers is its twin in the tests.
    """

    def __init__(self, pairs: Iterable[Iterable[int]] = ()) -> None:
        """Begin with some ranges (first, last), both ends counted."""
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        for first, last in pairs:
            self.add(first, last)

    def __contains__(self, number: int) -> bool:
        """Tell whether a number is in one of the ranges."""
        place = bisect_right(self._firsts, number) - 1
        return place >= 0 and number <= self._lasts[place]

    def __len__(self) -> int:
        """Return how many numbers there are."""
        return sum(self._lasts) - sum(self._firsts) + len(self._firsts)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield the ranges (first, last) in order."""
        return iter(zip(self._firsts, self._lasts, strict=True))

    def add(self, first: int, last: int | None = None) -> None:
        """Add the numbers from ``first`` to ``last``, or one number alone."""
        last = first if last is None else last
        # Those from `begin` to `end` meet the new range, and become one with it.
        begin = bisect_right(self._firsts, first)
        if begin and self._lasts[begin - 1] >= first - 1:
            begin -= 1
        end = bisect_right(self._firsts, last + 1)
        if begin < end:
            first = min(first, self._firsts[begin])
            last = max(last, self._lasts[end - 1])
        self._firsts[begin:end] = [first]
        self._lasts[begin:end] = [last]

    def missing(self, first: int, last: int) -> int:
        """Return how many numbers from ``first`` to ``last`` are not there."""
        count = max(0, last - first + 1)
        for begin, end in self:
            count -= max(0, min(end, last) - max(begin, first) + 1)
        return count
