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


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Raise ValueError for an option that an optimiser of ours does not take as it is.

    torch takes a text for true, and says of others in its own words what they are not. What a
    user's own class takes, only the class knows.
    """
    if name not in OPTIONS:
        return
    known = OPTIONS[name]
    for key, value in options.items():
        if key not in known:
            takes = f"it takes {', '.join(known)}" if known else "it takes none"
            raise ValueError(
                f"optimizer_options: {name} has no '{key}'.{nearest(key, known)} Beside lr, "
                f"momentum and weight_decay {takes}"
            )
        if not _fits(value, known[key]):
            raise ValueError(
                f"optimizer_options: {key} = {value!r:.60}; it is {known[key]}"
            )


def is_sound(name: str, options: Mapping[str, Any]) -> bool:
    """Tell whether `check_options` takes the options."""
    try:
        check_options(name, options)
    except ValueError:
        return False
    return True


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


def as_numbers(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with floats where torch asks for floats: TOML's 0 is a whole number."""
    kinds = OPTIONS.get(name, {})
    return {
        key: [float(number) for number in value] if kinds.get(key) == SHARES else value
        for key, value in options.items()
    }
