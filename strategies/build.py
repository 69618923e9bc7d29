"""From ``[strategy]`` to a Flower strategy: ours by name, any other by import path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flwr.serverapp.strategy import Strategy

from fedlearn.errors import ConfigError, FedlearnError
from fedlearn.names import call, check_types, find
from fedlearn.strategies import STRATEGIES

FIXED = {
    "layout": "",
    "seed": ", and set experiment.seed",
    "clients": ", and set clients in [data.partition]",
    "min_clients": ", and set experiment.min_clients",
}
"""What a strategy is given by the experiment alone: the argument, and where to set it."""


def build(
    name: str, options: Mapping[str, Any], offered: Mapping[str, Any]
) -> Strategy:
    """Return the strategy of a name or import path; ``offered`` arguments are given to those that take them.

    An option that is a table with a ``name`` is built first: the DP wrappers take a ``strategy`` this way. A string
    ``module:attribute`` in an option whose name ends in ``_fn`` is imported. Raises ConfigError.
    """
    made = find("strategy", name, STRATEGIES)
    if not callable(made):
        raise ConfigError(
            f"strategy '{name}' is a {type(made).__name__}, not a class or function that makes one"
        )
    for key in options:
        if key in FIXED and key in offered:
            raise ConfigError(
                f"strategy '{name}' takes {key} from the experiment: remove it here{FIXED[key]}"
            )
    check_types(f"strategy '{name}'", made, options)
    arguments = {key: _argument(key, value, offered) for key, value in options.items()}
    try:
        strategy = call(f"strategy '{name}'", made, arguments, offered)
    except FedlearnError:
        raise
    except (
        Exception
    ) as error:  # a strategy checks its own arguments with errors of its own
        raise ConfigError(f"strategy '{name}': {error}") from error
    if not isinstance(strategy, Strategy):
        raise ConfigError(
            f"strategy '{name}' made a {type(strategy).__name__}, not a flwr.serverapp.strategy.Strategy"
        )
    return strategy


def _argument(key: str, value: Any, offered: Mapping[str, Any]) -> Any:
    if key == "strategy" or (isinstance(value, dict) and "name" in value):
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            raise ConfigError(
                f'{key} = {value!r} is no strategy; write a table such as {{ name = "fedavg" }}'
            )
        return build(
            value["name"], {k: v for k, v in value.items() if k != "name"}, offered
        )
    if key.endswith("_fn") and isinstance(value, str):
        found = find(key, value, {})
        if not callable(found):
            raise ConfigError(
                f"{key} = '{value}' is a {type(found).__name__}, not a function"
            )
        return found
    return value
