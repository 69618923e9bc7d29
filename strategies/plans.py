"""From ``[train]`` and a round to the plan of that round."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from fedlearn.config import Experiment, TrainSection
from fedlearn.errors import RunError
from fedlearn.plan import Plan

# What a strategy's config may change in a plan: its key → the plan's field. Flower's
# FedProx writes "proximal-mu"; the others are ours.
ASKED = {
    "proximal-mu": "proximal_mu",
    "task": "answer",
    "accumulate": "accumulate",
    "lr": "lr",
}

# Keys of ``[train]`` that a strategy may change, for a round or for one client.
CHANGED = (
    "epochs",
    "steps",
    "batch_size",
    "momentum",
    "nesterov",
    "weight_decay",
    "clip_norm",
    "label_smoothing",
)

# Keys of ``[train]`` that it may not: the engines are built for them.
FIXED = (
    "precision",
    "augment",
    "stragglers",
    "straggler_work",
    "optimizer",
    "optimizer_options",
)

# What strategies tell clients, and no plan needs: the round, and which attempt it is.
TOLD = ("server-round", "attempt")

# Client methods whose number is a field of the plan.
OWN_FIELDS = ("proximal_mu",)

# How the key of a client method's number begins, as in "method.proximal_mu".
METHOD = "method."


def learning_rate(train: TrainSection, number: int, rounds: int) -> float:
    """Return the clients' learning rate in round ``number``, counted from 1.

    "step" multiplies by step_factor every step_every rounds; "cosine" falls from lr to
    lr_min over the run (Loshchilov and Hutter, ICLR 2017); warmup_rounds rise linearly
    before either.
    """
    # One more than warmup_rounds: the round after them is the first at the full rate.
    if number <= train.warmup_rounds:
        return train.lr * number / (train.warmup_rounds + 1)
    past = number - 1 - train.warmup_rounds
    if train.schedule == "step":
        return float(train.lr * train.step_factor ** (past // train.step_every))
    if train.schedule == "cosine":
        # The last round has lr_min, so that the run's rounds have one step less.
        steps = max(1, rounds - train.warmup_rounds - 1)
        height = train.lr - train.lr_min
        return train.lr_min + height * (1 + math.cos(math.pi * (past / steps))) / 2
    return train.lr


def plan(experiment: Experiment, number: int, request: Mapping[str, Any]) -> Plan:
    """Return the plan of round ``number``.

    request: what the strategy's config says to a client; of it only the keys of `ASKED`,
    `CHANGED` and `METHOD` count, see `unread`. Raises RunError for a key of ``[train]``
    that a strategy may not change, and for a value that the key does not take.
    """
    train = experiment.train
    fields: dict[str, Any] = {
        "lr": learning_rate(train, number, experiment.experiment.rounds)
    }
    methods: dict[str, float] = {}
    changes: dict[str, Any] = {}
    for key, value in request.items():
        name = _field(key)
        if key in ASKED:
            fields[ASKED[key]] = value
        elif name in CHANGED:
            # Checking takes longer than all else here, and most ask for what is set.
            if value != getattr(train, name):
                changes[name] = value
        elif name in FIXED:
            raise RunError(
                f"the strategy's config says {key} = {value!r}, which no strategy can "
                f"change; set train.{name}"
            )
        elif key.startswith(METHOD):
            methods[key.removeprefix(METHOD)] = float(value)
    # FedProx's number has a field of its own, which the fast engines read.
    fields.update({name: methods.pop(name) for name in OWN_FIELDS if name in methods})
    _check_numbers(fields)
    if fields.get("answer") == "gradient" and train.optimizer != "sgd":
        raise RunError(
            f'train.optimizer = "{train.optimizer}" is for clients that take steps, and '
            'these answer with a gradient: leave it at "sgd", or choose fedavg'
        )
    if changes:
        train = _changed(train, changes)
    for name in (*CHANGED, *FIXED):
        fields[name] = getattr(train, name)
    return Plan(
        round=number,
        seed=experiment.experiment.seed,
        codec=experiment.codec.up,
        methods=methods,
        **fields,
    )


def unread(request: Mapping[str, Any]) -> list[str]:
    """Return the keys of a strategy's config that our training does not read."""
    known = (*ASKED, *TOLD)
    return [
        key
        for key in request
        if key not in known
        and not key.startswith(METHOD)
        and _field(key) not in (*CHANGED, *FIXED)
    ]


def _field(key: str) -> str:
    """Return a key as ``[train]`` spells it: Flower's users write "batch-size" too."""
    return key.replace("-", "_")


def _check_numbers(fields: Mapping[str, Any]) -> None:
    """Raise RunError for numbers of `ASKED` that are none, or out of range."""
    for key, name in ASKED.items():
        value = fields.get(name, 0.0)
        if name == "answer" or _is_amount(value):
            continue
        raise _refused(key, value, "it is a number, at least 0")


def _is_amount(value: Any) -> bool:
    # To Python, true is a number too.
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) and value >= 0


def _changed(train: TrainSection, changes: Mapping[str, Any]) -> TrainSection:
    """Return the section with a strategy's changes; raises RunError where they do not fit."""
    try:
        return TrainSection.model_validate({**train.model_dump(), **changes})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else next(iter(changes))
        raise _refused(name, changes.get(name), str(first["msg"])) from None


def _refused(key: str, value: Any, reason: str) -> RunError:
    return RunError(f"the strategy's config says {key} = {value!r}: {reason}")
