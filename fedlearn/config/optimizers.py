"""What each of the clients' optimisers takes beside the keys of ``[train]``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedlearn.names import nearest

# What a value of an option has to be, in words for whoever gave another one.
FLAG = "true or false"
AMOUNT = "a number, at least 0"
SHARE = "a number from 0 up to, and without, 1"
SHARES = "two numbers from 0 up to, and without, 1"

# Name → the keys of [train.optimizer_options], as torch.optim spells them, and their kinds.
OPTIONS: dict[str, dict[str, str]] = {
    "sgd": {},
    "adam": {"betas": SHARES, "eps": AMOUNT, "amsgrad": FLAG},
    "adamw": {"betas": SHARES, "eps": AMOUNT, "amsgrad": FLAG},
    "adagrad": {
        "lr_decay": AMOUNT,
        "initial_accumulator_value": AMOUNT,
        "eps": AMOUNT,
    },
    "rmsprop": {"alpha": SHARE, "eps": AMOUNT, "centered": FLAG},
}

# Of those that have momentum of ``[train]``'s kind.
WITH_MOMENTUM = ("sgd", "rmsprop")

# Learning rates where a config names none: torch's. Steps of Adam's kind are about as long as
# the rate, so that SGD's 0.1 would be far too long.
RATES = {"adam": 0.001, "adamw": 0.001, "adagrad": 0.01, "rmsprop": 0.01}

# Weight decay where a config names none: without any, AdamW is Adam.
DECAYS = {"adamw": 0.01}


def checked_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return an optimiser's options as torch takes them: in a list with a float all are floats.

    Raises ValueError for an option that an optimiser of ours does not take as it is. torch takes
    a text for true, and says of others in its own words what they are not. What a user's own
    class takes, only the class knows.
    """
    known = OPTIONS.get(name)
    for key, value in options.items() if known is not None else ():
        _check(name, key, value, known or {})
    return {key: _uniform(value) for key, value in options.items()}


def _check(name: str, key: str, value: Any, kinds: Mapping[str, str]) -> None:
    if key not in kinds:
        takes = f"it takes {', '.join(kinds)}" if kinds else "it takes none"
        raise ValueError(
            f"{name} has no '{key}'.{nearest(key, kinds)} Beside lr, momentum and "
            f"weight_decay {takes}"
        )
    if not _fits(value, kinds[key]):
        raise ValueError(f"{key} = {value!r:.60}; it is {kinds[key]}")


def _uniform(value: Any) -> Any:
    """Return a list of numbers of one type: TOML's 0 is whole, and torch compares the types."""
    if isinstance(value, list) and any(isinstance(number, float) for number in value):
        return [float(number) for number in value]
    return value


def _fits(value: Any, kind: str) -> bool:
    if kind == FLAG:
        return isinstance(value, bool)
    if kind == SHARES:
        is_pair = isinstance(value, list) and len(value) == 2
        return is_pair and all(_fits(one_value, SHARE) for one_value in value)
    # To Python, true is a number too; NaN is below nothing.
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 <= value < (1 if kind == SHARE else float("inf"))
