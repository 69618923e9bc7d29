"""From ``[strategy]`` to a Flower strategy: ours by name, any other by import path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flwr.serverapp.strategy import Strategy

from fedlearn.errors import ConfigError, FedlearnError
from fedlearn.names import call, check_types, find
from fedlearn.strategies import STRATEGIES

# What only the experiment gives a strategy: the argument, and where to set it instead.
FIXED = {
    "layout": "",
    "seed": ", and set experiment.seed",
    "clients": ", and set clients in [data.partition]",
    "min_clients": ", and set experiment.min_clients",
}


def build(
    name: str, options: Mapping[str, Any], offered: Mapping[str, Any]
) -> Strategy:
    """Return the strategy of a name or import path.

    offered: arguments for those strategies that take them. An option that is a table with
    a ``name`` is built first: the wrappers for differential privacy take a ``strategy``
    this way. A string ``module:attribute`` in an option whose name ends in ``_fn`` is
    imported. Raises ConfigError.
    """
    factory = find("strategy", name, STRATEGIES)
    if not callable(factory):
        raise ConfigError(
            f"strategy '{name}' is a {type(factory).__name__}, "
            "not a class or function that makes one"
        )
    for key in options:
        # Two places for one number could disagree.
        if key in FIXED and key in offered:
            raise ConfigError(
                f"strategy '{name}' takes {key} from the experiment: "
                f"remove it here{FIXED[key]}"
            )
    # Before the call: a class may take any type, and fail rounds later.
    check_types(f"strategy '{name}'", factory, options)
    arguments = {key: _argument(key, value, offered) for key, value in options.items()}
    try:
        strategy = call(f"strategy '{name}'", factory, arguments, offered)
    except FedlearnError:
        raise
    except Exception as error:
        # A strategy checks its own arguments, with errors of its own.
        raise ConfigError(f"strategy '{name}': {error}") from error
    # A function that makes one may return anything.
    if not isinstance(strategy, Strategy):
        raise ConfigError(
            f"strategy '{name}' made a {type(strategy).__name__}, "
            "not a flwr.serverapp.strategy.Strategy"
        )
    return strategy


def _argument(key: str, value: Any, offered: Mapping[str, Any]) -> Any:
    """Return what a strategy is given for an option of the config."""
    if key == "strategy" or (isinstance(value, dict) and "name" in value):
        return _inner(key, value, offered)
    if not key.endswith("_fn") or not isinstance(value, str):
        return value
    function = find(key, value, {})
    if not callable(function):
        raise ConfigError(
            f"{key} = '{value}' is a {type(function).__name__}, not a function"
        )
    return function


def _inner(key: str, value: Any, offered: Mapping[str, Any]) -> Strategy:
    """Return the strategy of a table within ``[strategy]``."""
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise ConfigError(
            f"{key} = {value!r} is no strategy; "
            'write a table such as { name = "fedavg" }'
        )
    options = dict(value)
    name = options.pop("name")
    return build(name, options, offered)
