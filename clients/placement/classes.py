"""Classes of service: how long each one's requests may wait, and how many may come.

A class's rate is that of a token bucket: Turner, "New Directions in Communications (or
Which Way to the Information Age?)", IEEE Communications Magazine 1986. Nothing here has a
clock: times come in.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedlearn.errors import UserError
from fedlearn.names import nearest
from fedlearn.text import first_few

FORMAT = "fedlearn-classes-1"

# A file of some lines; what is larger is another one.
_MOST_BYTES = 64 << 10

_KEYS = ("deadline_ms", "rate", "burst", "queue")


@dataclass
class TokenBucket:
    """Lets ``rate`` tokens a second through, and ``burst`` of them at once.

    It begins full. tokens: as of at_s.
    """

    rate: float
    burst: float
    tokens: float = field(init=False)
    at_s: float = 0.0

    def __post_init__(self) -> None:
        """Fill it."""
        self.tokens = self.burst

    def take(self, count: float, now_s: float) -> float:
        """Take tokens and return 0; or take none, and return the seconds until they are there.

        More than ``burst`` at once never are: then a full bucket is enough, and is owed for.
        """
        self.tokens = min(self.burst, self.tokens + self.rate * (now_s - self.at_s))
        self.at_s = now_s
        needed = min(count, self.burst)
        if self.tokens < needed:
            return (needed - self.tokens) / self.rate
        self.tokens -= count
        return 0.0


@dataclass(frozen=True)
class ServiceClass:
    """What a class may do.

    deadline_s: how long its requests wait at most. rate: samples a second; burst: samples
    at once, by default those of a second. queue: share of the waiting samples, 0 to 1, that
    may be of this class.
    """

    deadline_s: float = math.inf
    rate: float = math.inf
    burst: float = math.inf
    queue: float = 1.0


class ServiceClasses:
    """All classes of a device, and their buckets."""

    def __init__(self, classes: Mapping[str, ServiceClass], default: str) -> None:
        """Begin with full buckets. default: the class of requests that name none."""
        self.default = default
        self._classes = dict(classes)
        self._buckets = {
            name: TokenBucket(entry.rate, entry.burst)
            for name, entry in classes.items()
            if math.isfinite(entry.rate)
        }

    def __contains__(self, name: str) -> bool:
        """Tell whether a name is a class's; "" is the default's."""
        return not name or name in self._classes

    @property
    def names(self) -> str:
        """Return the classes' names, as a message has them."""
        return first_few(f"'{name}'" for name in self._classes)

    @property
    def shortest_s(self) -> float:
        """Return the shortest of the classes' deadlines; infinite: none has one."""
        return min(entry.deadline_s for entry in self._classes.values())

    def of(self, name: str) -> ServiceClass:
        """Return a class; "" is the default. Raises KeyError for a name that is none."""
        return self._classes[name or self.default]

    def take(self, name: str, samples: int, now_s: float) -> float:
        """Return 0, or the seconds after which a class may have so many samples again."""
        bucket = self._buckets.get(name or self.default)
        return 0.0 if bucket is None else bucket.take(samples, now_s)


def read(path: Path) -> ServiceClasses:
    """Return the classes of a JSON file; raises UserError, which names class and key."""
    try:
        with open(path, "rb") as file:
            values = json.loads(file.read(_MOST_BYTES))
    except OSError as error:
        raise UserError(f"--classes {path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise UserError(f"--classes {path}: no JSON") from None
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise UserError(
            f'--classes {path}: it has to begin with {{"format": "{FORMAT}"; '
            "docs/placement.md has an example"
        )
    entries = values.get("classes")
    if not isinstance(entries, dict) or not entries:
        raise UserError(f"--classes {path}: 'classes' has to name one class at least")
    classes = {}
    for name, entry in entries.items():
        classes[name] = _class(path, name, entry)
    default = values.get("default")
    if not isinstance(default, str) or default not in classes:
        raise UserError(
            f"--classes {path}: 'default' has to be one of {first_few(classes)}"
        )
    return ServiceClasses(classes, default)


def _class(path: Path, name: str, entry: object) -> ServiceClass:
    """Return a class of the file. Raises UserError."""
    place = f"--classes {path}: class '{name[:60]}'"
    if not isinstance(entry, dict):
        raise UserError(f"{place} has to be an object of {', '.join(_KEYS)}")
    for key in entry:
        if key not in _KEYS:
            raise UserError(
                f"{place} has no key '{key[:60]}'.{nearest(key, _KEYS)} Known: "
                f"{', '.join(_KEYS)}"
            )
    rate = _positive(place, entry, "rate", math.inf)
    queue = _positive(place, entry, "queue", 1.0)
    if queue > 1:
        raise UserError(f"{place}: queue is a share from above 0 to 1")
    return ServiceClass(
        deadline_s=_positive(place, entry, "deadline_ms", math.inf) / 1000,
        rate=rate,
        burst=_positive(place, entry, "burst", max(1.0, rate)),
        queue=queue,
    )


def _positive(place: str, entry: Mapping[str, Any], key: str, default: float) -> float:
    value: Any = entry.get(key, default)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # NaN is not above 0 either.
    if not (is_number and float(value) > 0):
        raise UserError(f"{place}: {key} has to be a number above 0")
    return float(value)
