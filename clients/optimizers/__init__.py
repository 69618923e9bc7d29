"""The clients' optimisers: what becomes of a step's gradients.

`fedlearn.clients.optimizers.sgd` is ours. All others are torch's own classes, and whatever
class a user names; see `fedlearn.clients.optimizers.named`. Each client's optimiser begins
anew in each round: a client is seldom asked twice in a row, and never by all.
"""

from __future__ import annotations

from typing import Protocol

import torch

from fedlearn.clients.optimizers.named import NamedOptimizer
from fedlearn.clients.optimizers.sgd import Sgd
from fedlearn.plan import Plan


class Optimizer(Protocol):
    """One optimiser at work in one client's training, made anew for each."""

    def step(self, gradients: list[torch.Tensor]) -> None:
        """Take one step in place; the gradients are overwritten."""


def optimizer_of(plan: Plan, weights: list[torch.Tensor]) -> Optimizer:
    """Return the optimiser that a plan names, for a module's trained parameters.

    Raises ClientError where it cannot be built.
    """
    if plan.optimizer == "sgd":
        return Sgd(plan, weights)
    return NamedOptimizer(plan, weights)
