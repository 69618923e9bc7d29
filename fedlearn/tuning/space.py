"""What is looked through: some keys of a config, and for each the values that it may have.

One grammar, on the command line (``--search KEY=RANGE``) and in a config (``[tune.search]``):

    log:LOW:HIGH          a number, all magnitudes alike
    lin:LOW:HIGH[:STEP]   a number
    int:LOW:HIGH[:STEP]   a whole number
    choice:A,B,…          one of these, written as in --set; a comma within brackets separates nothing
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tomllib

from fedlearn.config import ExpectSection, Experiment, TuneSection, validate
from fedlearn.errors import ConfigError
from fedlearn.names import nearest

Value = float | int | str | bool | list[Any]
Values = dict[str, Value]
"""What a trial gives each searched key, by its path: {"train.lr": 0.1}."""

KINDS = ("log", "lin", "int", "choice")
FIXED = ("experiment", "expect", "fleet", "tune")
"""Tables of a config that are not searched: what a run is called, how long it is, and what has no part in a simulation."""

GRID_STEP = 10 ** (1 / 3)
"""Between the points of a ``log`` range in a grid: McMahan et al. (AISTATS 2017, section 3) search learning rates so."""

MOST_RATIO = 1e100
"""Between the ends of a ``log`` range: beyond it floats overflow."""

_MOST_POINTS = 10_000
_GRAMMAR = (
    "write log:LOW:HIGH, lin:LOW:HIGH[:STEP], int:LOW:HIGH[:STEP] or choice:A,B,…"
)


@dataclass(frozen=True)
class Range:
    """The values that one key may have. low, high, step: of the numeric kinds; step 0 = none. choices: of ``choice``."""

    key: str
    text: str  # as it was given
    kind: str
    low: float = 0.0
    high: float = 0.0
    step: float = 0.0
    choices: tuple[Value, ...] = ()

    @property
    def top(self) -> float:
        """Return the highest value: HIGH, or the last step before it."""
        return (
            self.rounded(
                self.low
                + math.floor((self.high - self.low) / self.step + 1e-9) * self.step
            )
            if self.step
            else self.high
        )

    def ends(self) -> tuple[Value, ...]:
        """Return the values whose validity says that all are valid: the lowest and the highest, or every choice."""
        return self.choices or (self.rounded(self.low), self.rounded(self.top))

    def points(self) -> list[Value]:
        """Return the values of a grid, ascending. Raises ConfigError for a range without a step."""
        if self.kind == "choice":
            return list(self.choices)
        if self.kind == "log":
            count = math.floor(
                math.log(self.high / self.low) / math.log(GRID_STEP) + 1e-9
            )
            return [self.rounded(self.low * GRID_STEP**i) for i in range(count + 1)]
        if not self.step:
            raise ConfigError(
                f"--grid: {self.key} = {self.text} has no step; write lin:LOW:HIGH:STEP"
            )
        count = math.floor((self.high - self.low) / self.step + 1e-9)
        return [
            self.rounded(self.low + self.step * i)
            for i in range(min(count, _MOST_POINTS) + 1)
        ]

    def rounded(self, value: float) -> float | int:
        """Return a value as a config shows it: three significant digits where any number would do."""
        if self.kind == "int":
            return round(value)
        if self.step:
            return float(f"{value:.12g}")
        return min(max(float(f"{value:.3g}"), self.low), self.high)


Space = tuple[Range, ...]


def parse(key: str, text: str, where: str) -> Range:
    """Return the range that a text says. where: how an error names the place, e.g. "--search train.lr=log:0:1"."""
    if not all(key.split(".")) or "." not in key:
        raise ConfigError(
            f"{where}: '{key}' names no key of a config; write section.key, for example train.lr"
        )
    if key.split(".")[0] in FIXED:
        raise ConfigError(f"{where}: [{key.split('.')[0]}] is not searched")
    kind, _, rest = text.strip().partition(":")
    if kind not in KINDS:
        raise ConfigError(
            f"{where}: no kind of range '{kind}'.{nearest(kind, KINDS)} {_GRAMMAR[0].upper()}{_GRAMMAR[1:]}"
        )
    if kind == "choice":
        choices = tuple(_word(word) for word in _split(rest))
        if not rest.strip() or "" in choices:
            raise ConfigError(f"{where}: a choice is empty; write choice:A,B,…")
        return Range(key, text, kind, choices=choices)
    low, high, step = _numbers(kind, rest, where)
    return Range(key, text, kind, low, high, step)


def _numbers(kind: str, rest: str, where: str) -> tuple[float, float, float]:
    parts = rest.split(":")
    if len(parts) not in ((2,) if kind == "log" else (2, 3)):
        raise ConfigError(f"{where}: {_GRAMMAR}")
    try:
        numbers = tuple(float(part) for part in parts)
    except ValueError:
        raise ConfigError(f"{where}: '{rest}' are not numbers; {_GRAMMAR}") from None
    low, high, step = (*numbers, 0.0)[:3]
    if not all(map(math.isfinite, numbers)):
        raise ConfigError(f"{where}: the ends of a range are finite numbers")
    if kind == "int" and any(number % 1 for number in numbers):
        raise ConfigError(
            f"{where}: an int range has whole numbers; for fractions write lin:LOW:HIGH"
        )
    if low >= high:
        raise ConfigError(f"{where}: LOW is not below HIGH")
    if kind == "log" and low <= 0:
        raise ConfigError(f"{where}: a log range begins above 0")
    if kind == "log" and high / low > MOST_RATIO:
        raise ConfigError(f"{where}: HIGH is more than {MOST_RATIO:g} times LOW")
    if len(numbers) == 3 and not 0 < step <= high - low:
        raise ConfigError(f"{where}: STEP is above 0 and at most HIGH - LOW")
    return low, high, step or (1.0 if kind == "int" else 0.0)


def _split(text: str) -> list[str]:
    """Return the parts between the commas that stand outside brackets and quotes: "pred+cvq(1,1),raw32" has two."""
    words, depth, quote = [""], 0, ""
    for c in text:
        quote = "" if c == quote else quote or (c if c in "\"'" else "")
        if not quote:
            depth += (c in "([{") - (c in ")]}")
        if c == "," and not depth and not quote:
            words.append("")
        else:
            words[-1] += c
    return [word.strip() for word in words]


def _word(text: str) -> Value:
    try:
        value: Value = tomllib.loads(f"value = {text}")["value"]
        return value
    except (ValueError, RecursionError):
        return text  # a bare word is a string, as in --set


def space(experiment: Experiment, given: Sequence[str]) -> Space:
    """Return what is searched: the config's ``[tune.search]``, changed and added to by ``--search`` texts.

    Where neither says anything, it is the learning rate from a tenth to ten times the config's. Raises ConfigError naming the
    place for a range that cannot be read, and for values that the config does not allow.
    """
    found: dict[str, Range] = {}
    for key, text in _flat(experiment.tune.search).items():
        found[key] = parse(key, text, f'[tune.search] {key} = "{text}"')
    for argument in given:
        key, equals, text = argument.partition("=")
        if not equals:
            raise ConfigError(
                f"--search {argument}: write KEY=RANGE, for example train.lr=log:0.01:1"
            )
        found[key.strip()] = parse(key.strip(), text, f"--search {argument}")
    if not found:
        text = f"log:{experiment.train.lr / 10:.3g}:{experiment.train.lr * 10:.3g}"
        found["train.lr"] = parse(
            "train.lr", text, f"train.lr = {text}, the default without --search"
        )
    made = tuple(found.values())
    for axis in made:
        for value in axis.ends():
            with_values(experiment, {axis.key: value}, f"{axis.key} = {axis.text}")
    return made


def _flat(table: Mapping[str, Any], path: str = "") -> dict[str, str]:
    """Return the texts of nested tables by path: TOML reads ``train.lr = "…"`` as a table in a table."""
    found: dict[str, str] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{path}{key}.")
        elif isinstance(value, str):
            found[path + key] = value
        else:
            raise ConfigError(
                f"[tune.search] {path}{key}: a range is a text; {_GRAMMAR}"
            )
    return found


def with_values(
    experiment: Experiment, values: Mapping[str, Value], where: str = "trial"
) -> Experiment:
    """Return the experiment of a trial: with the values, and without what is said of the config's own run ([expect], [tune]).

    Raises ConfigError, beginning with ``where``, for a value that the config does not allow.
    """
    table = experiment.model_copy(
        update={"expect": ExpectSection(), "tune": TuneSection()}
    ).model_dump()
    for key, value in values.items():
        at, parts = table, key.split(".")
        for part in parts[:-1]:
            at = at.setdefault(part, {})
            if not isinstance(at, dict):
                raise ConfigError(f"{where}: '{part}' is a value, not a table")
        at[parts[-1]] = value
    return validate(table, where)


def grid(space: Space) -> list[Values]:
    """Return every point of the grid; the last range varies fastest. Raises ConfigError for a grid too large."""
    axes = [axis.points() for axis in space]
    if math.prod(map(len, axes)) > _MOST_POINTS:
        raise ConfigError(
            f"--grid has {math.prod(map(len, axes)):,} points, more than {_MOST_POINTS:,}; make the ranges smaller"
        )
    return [
        dict(zip((axis.key for axis in space), point, strict=True))
        for point in itertools.product(*axes)
    ]


def shown(value: Value) -> str:
    """Return a value as a table shows it."""
    return re.sub(r"\.0$", "", f"{value:g}") if isinstance(value, float) else str(value)
