"""torch's optimisers on the weights of many clients at once.

Adam, AdamW, AdaGrad and RMSprop compute each value by itself, so that one optimiser of stacked
weights is the clients' own side by side.

Legend: K clients.
"""

from __future__ import annotations

import torch

from fedlearn.clients.optimizers.named import build
from fedlearn.engine.stacked.sgd import ByName, pull
from fedlearn.plan import Plan


class StackedNamed:
    """An optimiser of torch's in place on the weights of the first clients of a stack."""

    def __init__(self, plan: Plan, weights: ByName, starts: ByName) -> None:
        """Take trained weights (K, …), and what they start from: (1, …) where all share it."""
        self.plan = plan
        self.weights = weights
        self.starts = starts
        self.optimizer = build(plan, list(weights.values()))

    def step(self, active: int, gradients: ByName) -> None:
        """Take a step of the first ``active`` clients; the gradients are overwritten."""
        first = [self.weights[name][:active] for name in gradients]
        if self.plan.proximal_mu:
            pull(self.plan.proximal_mu, active, gradients, first, self.starts)
        # An optimiser moves on without a gradient too: whoever is done is put back.
        ended = {name: self.weights[name][active:].clone() for name in gradients}
        for name, gradient in gradients.items():
            weight = self.weights[name]
            weight.grad = _padded(gradient, len(weight))
        self.optimizer.step()
        for name, values in ended.items():
            weight = self.weights[name]
            weight[active:] = values
            weight.grad = None


def _padded(gradient: torch.Tensor, clients: int) -> torch.Tensor:
    """Return gradients (active, …) as (K, …), zero for the clients that are done."""
    if len(gradient) == clients:
        return gradient
    padded = gradient.new_zeros(clients, *gradient.shape[1:])
    padded[: len(gradient)] = gradient
    return padded
