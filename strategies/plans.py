"""From ``[train]`` and a round to the plan of that round."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fedlearn.config import Experiment, TrainSection
from fedlearn.plan import Plan

ASKED = {
    "proximal-mu": "proximal_mu",  # Flower's FedProx
    "task": "answer",
    "accumulate": "accumulate",
    "clip_norm": "clip_norm",
    "lr": "lr",
}
"""What a strategy's config may change in a plan: its key → the plan's field."""


AS_SET = (
    *(
        "epochs",
        "steps",
        "batch_size",
        "momentum",
        "nesterov",
        "weight_decay",
        "label_smoothing",
        "precision",
        "augment",
    ),
    *("stragglers", "straggler_work"),
)
"""Fields of a plan that are those of ``[train]``."""


def learning_rate(train: TrainSection, round: int, rounds: int) -> float:
    """Return the clients' learning rate in a round, counted from 1.

    "step" multiplies by step_factor every step_every rounds; "cosine" falls from lr to lr_min over the run
    (Loshchilov and Hutter, ICLR 2017); warmup_rounds rise linearly before either.
    """
    if round <= train.warmup_rounds:
        return train.lr * round / (train.warmup_rounds + 1)
    done, length = round - 1 - train.warmup_rounds, rounds - train.warmup_rounds
    if train.schedule == "step":
        return float(train.lr * train.step_factor ** (done // train.step_every))
    if train.schedule == "cosine":
        part = done / max(1, length - 1)
        return (
            train.lr_min
            + (train.lr - train.lr_min) * (1 + math.cos(math.pi * part)) / 2
        )
    return train.lr


def plan(experiment: Experiment, round: int, asked: Mapping[str, Any]) -> Plan:
    """Return the plan of a round; ``asked`` is what the strategy's config says, see `ASKED`."""
    train = experiment.train
    fields: dict[str, Any] = {
        "lr": learning_rate(train, round, experiment.experiment.rounds),
        **{ASKED[key]: value for key, value in asked.items() if key in ASKED},
    }
    for name in AS_SET:
        fields[name] = getattr(train, name)
    fields.setdefault("clip_norm", train.clip_norm)
    return Plan(
        round=round,
        seed=experiment.experiment.seed,
        codec=experiment.codec.up,
        **fields,
    )
