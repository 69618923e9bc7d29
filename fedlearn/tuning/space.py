"""What is looked through: some keys of a config, and the values that each may have.

One grammar, on the command line (``--search KEY=RANGE``) and in a config
(``[tune.search]``):

    log:LOW:HIGH          a number, all magnitudes alike
    lin:LOW:HIGH[:STEP]   a number
    int:LOW:HIGH[:STEP]   a whole number
    choice:A,B,…          one of these, as in --set; commas within brackets do not count
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tomllib

from fedlearn.config import ExpectSection, Experiment, TuneSection, validate
from fedlearn.errors import ConfigError
from fedlearn.names import nearest

Value = float | int | str | bool | list[Any]

# What a trial gives each searched key, by its path: {"train.lr": 0.1}.
Values = dict[str, Value]

KINDS = ("log", "lin", "int", "choice")

# Tables of a config that are not searched: what a run is called, how long it is, and what
# has no part in a simulation.
FIXED = ("experiment", "expect", "fleet", "tune")

# Between the points of a ``log`` range in a grid: McMahan et al. (AISTATS 2017, section
# 3) search learning rates so.
GRID_STEP = 10 ** (1 / 3)

# Between the ends of a ``log`` range: beyond it floats overflow.
MOST_RATIO = 1e100

# At a minute a trial, more than this would take over a week: a mistake.
_MOST_POINTS = 10_000

# So that 0.3 / 0.1 counts as three steps, and not as 2.9999999999999996.
_SLACK = 1e-9

_GRAMMAR = (
    "write log:LOW:HIGH, lin:LOW:HIGH[:STEP], int:LOW:HIGH[:STEP] or choice:A,B,…"
)


@dataclass(frozen=True)
class Range:
    """The values that one key may have.

    text: as the user wrote it. kind: of `KINDS`. low, high, step: of the numeric kinds;
    step 0: none. choices: of ``choice``.
    """

    key: str
    text: str
    kind: str
    low: float = 0.0
    high: float = 0.0
    step: float = 0.0
    choices: tuple[Value, ...] = ()

    @property
    def _steps(self) -> int:
        """Return how many steps fit into the range."""
        width = self.high - self.low
        return math.floor(width / self.step + _SLACK)

    @property
    def top(self) -> float:
        """Return the highest value: HIGH, or the last step before it."""
        if not self.step:
            return self.high
        return self.rounded(self.low + self._steps * self.step)

    def ends(self) -> tuple[Value, ...]:
        """Return the values that must be valid, so that all are.

        They are the lowest and the highest, or every choice.
        """
        if self.choices:
            return self.choices
        # Rounded, as a trial gets them.
        return self.rounded(self.low), self.rounded(self.top)

    def points(self) -> list[Value]:
        """Return the values of a grid, ascending; choices in their own order.

        Raises ConfigError for a range without a step.
        """
        if self.kind == "choice":
            return list(self.choices)
        if self.kind == "log":
            ratio = math.log(self.high / self.low) / math.log(GRID_STEP)
            steps = math.floor(ratio + _SLACK)
            return [self.rounded(self.low * GRID_STEP**i) for i in range(steps + 1)]
        if not self.step:
            raise ConfigError(
                f"--grid: {self.key} = {self.text} has no step; write lin:LOW:HIGH:STEP"
            )
        # One point more than a grid may have says enough: `grid` refuses it.
        steps = min(self._steps, _MOST_POINTS)
        return [self.rounded(self.low + self.step * i) for i in range(steps + 1)]

    def rounded(self, value: float) -> float | int:
        """Return a value as a config shows it.

        It has three significant digits where any number would do.
        """
        if self.kind == "int":
            return round(value)
        if self.step:
            # Without the last bits that multiples of a step bring.
            return float(f"{value:.12g}")
        # Rounding must not lead out of the range.
        return min(max(float(f"{value:.3g}"), self.low), self.high)


Space = tuple[Range, ...]


def parse(key: str, text: str, where: str) -> Range:
    """Return the range that a text says.

    where: how an error names the place, for example "--search train.lr=log:0:1". Raises
    ConfigError.
    """
    table, *keys = key.split(".")
    # A key of the top level is a table, and ".lr" or "train." is a slip.
    if not keys or not all((table, *keys)):
        raise ConfigError(
            f"{where}: '{key}' names no key of a config; "
            "write section.key, for example train.lr"
        )
    if table in FIXED:
        raise ConfigError(f"{where}: [{table}] is not searched")
    kind, _, content = text.strip().partition(":")
    if kind not in KINDS:
        grammar = f"{_GRAMMAR[0].upper()}{_GRAMMAR[1:]}"
        raise ConfigError(
            f"{where}: no kind of range '{kind}'.{nearest(kind, KINDS)} {grammar}"
        )
    if kind == "choice":
        choices = tuple(_word(word) for word in _split(content))
        if not content.strip() or "" in choices:
            raise ConfigError(f"{where}: a choice is empty; write choice:A,B,…")
        return Range(key, text, kind, choices=choices)
    numbers = _numbers(kind, content, where)
    _check_numbers(kind, numbers, where)
    # No step: any number will do; a whole number goes in ones.
    step = 0.0
    if len(numbers) == 3:
        step = numbers[2]
    elif kind == "int":
        step = 1.0
    return Range(key, text, kind, numbers[0], numbers[1], step)


def _numbers(kind: str, content: str, where: str) -> list[float]:
    """Return LOW, HIGH and, if there is one, STEP; raises ConfigError."""
    parts = content.split(":")
    # The points of a ``log`` range have a fixed ratio: `GRID_STEP`.
    counts = (2,) if kind == "log" else (2, 3)
    if len(parts) not in counts:
        raise ConfigError(f"{where}: {_GRAMMAR}")
    try:
        return [float(part) for part in parts]
    except ValueError:
        raise ConfigError(f"{where}: '{content}' are not numbers; {_GRAMMAR}") from None


def _check_numbers(kind: str, numbers: Sequence[float], where: str) -> None:
    """Raise ConfigError for numbers that are no range."""
    low, high, *steps = numbers
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
    for step in steps:
        if not 0 < step <= high - low:
            raise ConfigError(f"{where}: STEP is above 0 and at most HIGH - LOW")


def _split(text: str) -> list[str]:
    """Return the parts between the commas that stand outside brackets and quotes.

    "pred+cvq(1,1),raw32" has two.
    """
    words = [""]
    depth = 0
    # The quote that is open, "" outside quotes.
    quote = ""
    for character in text:
        if character == quote:
            quote = ""
        elif not quote and character in "\"'":
            quote = character
        if not quote:
            depth += (character in "([{") - (character in ")]}")
        if character == "," and not depth and not quote:
            words.append("")
        else:
            words[-1] += character
    return [word.strip() for word in words]


def _word(text: str) -> Value:
    """Return a choice as TOML has it; a bare word is a string, as in --set."""
    try:
        value: Value = tomllib.loads(f"value = {text}")["value"]
        return value
    except (ValueError, RecursionError):
        return text


def parse_space(experiment: Experiment, arguments: Sequence[str]) -> Space:
    """Return what is searched.

    The config's ``[tune.search]``, changed and added to by the texts of ``--search``.
    Where neither says anything, it is the learning rate from a tenth to ten times the
    config's. Raises ConfigError naming the place for a range that cannot be read, and for
    values that the config does not allow.
    """
    ranges: dict[str, Range] = {}
    for key, text in _flat(experiment.tune.search).items():
        ranges[key] = parse(key, text, f'[tune.search] {key} = "{text}"')
    # The command line goes before the config, key by key.
    for argument in arguments:
        key, equals, text = argument.partition("=")
        key = key.strip()
        if not equals:
            raise ConfigError(
                f"--search {argument}: write KEY=RANGE, for example train.lr=log:0.01:1"
            )
        ranges[key] = parse(key, text, f"--search {argument}")
    if not ranges:
        lr = experiment.train.lr
        text = f"log:{lr / 10:.3g}:{lr * 10:.3g}"
        where = f"train.lr = {text}, the default without --search"
        ranges["train.lr"] = parse("train.lr", text, where)
    # Before the first trial runs: a range that reaches too far is no trial's fault.
    for axis in ranges.values():
        for value in axis.ends():
            with_values(experiment, {axis.key: value}, f"{axis.key} = {axis.text}")
    return tuple(ranges.values())


def _flat(table: Mapping[str, Any], path: str = "") -> dict[str, str]:
    """Return the texts of nested tables by path.

    TOML reads ``train.lr = "…"`` as a table in a table. Raises ConfigError for what is
    neither a text nor a table.
    """
    texts: dict[str, str] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            texts |= _flat(value, f"{path}{key}.")
        elif isinstance(value, str):
            texts[path + key] = value
        else:
            raise ConfigError(
                f"[tune.search] {path}{key}: a range is a text; {_GRAMMAR}"
            )
    return texts


def with_values(
    experiment: Experiment, values: Mapping[str, Value], where: str = "trial"
) -> Experiment:
    """Return the experiment of a trial: with the values, by the paths of their keys.

    Without what is said of the config's own run ([expect], [tune]). Raises ConfigError,
    beginning with ``where``, for a value that the config does not allow.
    """
    cleared = {"expect": ExpectSection(), "tune": TuneSection()}
    config = experiment.model_copy(update=cleared).model_dump()
    for path, value in values.items():
        *tables, key = path.split(".")
        table = config
        # Options, as of a strategy, may have tables that the config does not have yet.
        for part in tables:
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                raise ConfigError(f"{where}: '{part}' is a value, not a table")
        table[key] = value
    return validate(config, where)


def grid(space: Space) -> list[Values]:
    """Return every point of the grid; the last range varies fastest.

    Raises ConfigError for a grid too large.
    """
    axes = [axis.points() for axis in space]
    # Counted before they are made.
    points = math.prod(map(len, axes))
    if points > _MOST_POINTS:
        raise ConfigError(
            f"--grid has {points:,} points, more than {_MOST_POINTS:,}; "
            "make the ranges smaller"
        )
    keys = [axis.key for axis in space]
    return [dict(zip(keys, point, strict=True)) for point in itertools.product(*axes)]


def value_text(value: Value) -> str:
    """Return a value as a table shows it."""
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)
