"""Checks of single values of the ``[data]`` and ``[data.partition]`` tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlearn.errors import ConfigError
from fedlearn.names import nearest

# Number of clients where a config gives none: the population of McMahan et al.,
# "Communication-Efficient Learning" (AISTATS 2017).
DEFAULT_CLIENTS = 100


def whole(where: str, value: Any, least: int = 1, most: int | None = None) -> int:
    """Return ``value`` if it is a whole number in [least, most].

    Raises ConfigError naming ``where`` otherwise.
    """
    # bool is a subclass of int, and TOML's true is no number.
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ConfigError(
            f"{where} = {value!r} is not a whole number; give one of at least {least}"
        )
    if value < least or (most is not None and value > most):
        bounds = f"at least {least}"
        if most is not None:
            bounds += f" and at most {most:,}"
        raise ConfigError(f"{where} = {value} is out of range; it must be {bounds}")
    return int(value)


def number(where: str, value: Any, least: float = 0.0, *, above: bool = False) -> float:
    """Return a finite number ≥ least, or > least with ``above``.

    Raises ConfigError naming ``where`` otherwise.
    """
    # bool is a subclass of int, and TOML's true is no number; TOML has nan and inf.
    is_number = isinstance(value, int | float | np.number)
    if isinstance(value, bool) or not is_number or not math.isfinite(value):
        raise ConfigError(f"{where} = {value!r} is not a finite number")
    # Concentrations must be above 0, at which Dirichlet is not defined.
    if value < least or (above and value == least):
        bound = "above" if above else "at least"
        raise ConfigError(
            f"{where} = {value} is out of range; it must be {bound} {least:g}"
        )
    return float(value)


def flag(where: str, value: Any) -> bool:
    """Return ``value`` if it is true or false; raises ConfigError naming ``where`` otherwise."""
    if not isinstance(value, bool):
        raise ConfigError(f"{where} = {value!r} is neither true nor false")
    return value


def choice(where: str, value: Any, choices: Sequence[str]) -> str:
    """Return ``value`` if it is one of ``choices``.

    Raises ConfigError with the nearest choice otherwise.
    """
    if value not in choices:
        hint = nearest(str(value), choices)
        raise ConfigError(
            f"{where} = {value!r} is unknown.{hint} Known: {', '.join(choices)}"
        )
    return str(value)


def wholes(where: str, values: Any, least: int = 1) -> NDArray[np.int64]:
    """Return a list of whole numbers as (len,) int64.

    Raises ConfigError naming the item that is not one.
    """
    # TOML gives lists; a user's own code may give the others.
    if not isinstance(values, list | tuple | np.ndarray) or len(values) == 0:
        raise ConfigError(
            f"{where} must be a list of whole numbers, for example [100, 200], "
            f"not {values!r}"
        )
    checked = [whole(f"{where}[{i}]", value, least) for i, value in enumerate(values)]
    return np.array(checked, np.int64)


def concentrations(
    where: str, alpha: Any, count: int, of_what: str
) -> NDArray[np.float64]:
    """Return Dirichlet concentrations (count,): one number for all, or a list; all above 0.

    of_what: what is counted, for the message. Raises ConfigError for another length, and for a
    wrong value.
    """
    if not isinstance(alpha, list | tuple | np.ndarray):
        return np.full(count, number(where, alpha, above=True))
    if len(alpha) != count:
        raise ConfigError(
            f"{where} has {len(alpha)} values, but there are {count} {of_what}; "
            f"give one or {count}"
        )
    values = [
        number(f"{where}[{i}]", value, above=True) for i, value in enumerate(alpha)
    ]
    return np.array(values)
