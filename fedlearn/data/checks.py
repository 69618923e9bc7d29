"""Checks of single values of the ``[data]`` and ``[data.partition]`` tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlearn.errors import ConfigError
from fedlearn.names import nearest


def whole(where: str, value: Any, least: int = 1, most: int | None = None) -> int:
    """Return ``value`` if it is a whole number in [least, most]; raises ConfigError naming ``where`` otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ConfigError(
            f"{where} = {value!r} is not a whole number; give one of at least {least}"
        )
    if value < least or (most is not None and value > most):
        bound = f"at least {least}" + (
            f" and at most {most:,}" if most is not None else ""
        )
        raise ConfigError(f"{where} = {value} is out of range; it must be {bound}")
    return int(value)


def number(where: str, value: Any, least: float = 0.0, *, above: bool = False) -> float:
    """Return a finite number ≥ least (> least where ``above``); raises ConfigError naming ``where`` otherwise."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float | np.number)
        or not math.isfinite(value)
    ):
        raise ConfigError(f"{where} = {value!r} is not a finite number")
    if value < least or (above and value == least):
        raise ConfigError(
            f"{where} = {value} is out of range; it must be {'above' if above else 'at least'} {least:g}"
        )
    return float(value)


def flag(where: str, value: Any) -> bool:
    """Return ``value`` if it is true or false; raises ConfigError naming ``where`` otherwise."""
    if not isinstance(value, bool):
        raise ConfigError(f"{where} = {value!r} is neither true nor false")
    return value


def choice(where: str, value: Any, choices: Sequence[str]) -> str:
    """Return ``value`` if it is one of ``choices``; raises ConfigError with the nearest one otherwise."""
    if value not in choices:
        raise ConfigError(
            f"{where} = {value!r} is unknown.{nearest(str(value), choices)} Known: {', '.join(choices)}"
        )
    return str(value)


def wholes(where: str, values: Any, least: int = 1) -> NDArray[np.int64]:
    """Return a list of whole numbers as (len,) int64; raises ConfigError naming the item that is not one."""
    if not isinstance(values, list | tuple | np.ndarray) or len(values) == 0:
        raise ConfigError(
            f"{where} must be a list of whole numbers, for example [100, 200], not {values!r}"
        )
    return np.array(
        [whole(f"{where}[{i}]", value, least) for i, value in enumerate(values)],
        np.int64,
    )


def concentrations(
    where: str, alpha: Any, count: int, of_what: str
) -> NDArray[np.float64]:
    """Return Dirichlet concentrations (count,): one number for all, or a list of ``count``; all above 0."""
    if isinstance(alpha, list | tuple | np.ndarray):
        if len(alpha) != count:
            raise ConfigError(
                f"{where} has {len(alpha)} values, but there are {count} {of_what}; give one or {count}"
            )
        return np.array(
            [
                number(f"{where}[{i}]", value, above=True)
                for i, value in enumerate(alpha)
            ]
        )
    return np.full(count, number(where, alpha, above=True))
