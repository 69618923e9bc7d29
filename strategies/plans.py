"""From ``[train]`` and a round to the plan of that round."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fedlearn.config import Experiment, TrainSection
from fedlearn.plan import Plan

# What a strategy's config may change in a plan: its key → the plan's field. Flower's
# FedProx writes "proximal-mu"; the others are ours.
ASKED = {
    "proximal-mu": "proximal_mu",
    "task": "answer",
    "accumulate": "accumulate",
    "clip_norm": "clip_norm",
    "lr": "lr",
}

# Client methods whose number is a field of the plan.
OWN_FIELDS = ("proximal_mu",)

# How the key of a client method's number begins, as in "method.proximal_mu".
METHOD = "method."

# Fields of a plan that are those of ``[train]``.
AS_SET = (
    "epochs",
    "steps",
    "batch_size",
    "momentum",
    "nesterov",
    "weight_decay",
    "label_smoothing",
    "precision",
    "augment",
    "stragglers",
    "straggler_work",
)


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

    request: what the strategy's config says; of it only the keys of `ASKED` and `METHOD` count.
    """
    train = experiment.train
    fields: dict[str, Any] = {
        "lr": learning_rate(train, number, experiment.experiment.rounds),
        "clip_norm": train.clip_norm,
    }
    methods: dict[str, float] = {}
    for key, value in request.items():
        if key in ASKED:
            fields[ASKED[key]] = value
        elif key.startswith(METHOD):
            methods[key.removeprefix(METHOD)] = float(value)
    # FedProx's number has a field of its own, which the fast engines read.
    fields.update({name: methods.pop(name) for name in OWN_FIELDS if name in methods})
    # After the strategy's: it may not change these.
    for name in AS_SET:
        fields[name] = getattr(train, name)
    return Plan(
        round=number,
        seed=experiment.experiment.seed,
        codec=experiment.codec.up,
        methods=methods,
        **fields,
    )
