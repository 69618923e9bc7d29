"""SGD steps of many clients at once: the fast twin of the rule in `fedlearn.clients.train`.

Legend: K clients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from fedlearn.plan import Plan

# A weight's name → a tensor for each client, (K, …).
ByName = Mapping[str, torch.Tensor]


class StackedSgd:
    """SGD in place on the weights of the first clients of a stack, with their momentum."""

    def __init__(self, plan: Plan, weights: ByName, starts: ByName) -> None:
        """Take weights (K, …), and what they start from: (1, …) where all share it."""
        self.plan = plan
        self.weights = weights
        self.starts = starts
        self._velocity: dict[str, torch.Tensor] = {}

    def step(self, active: int, gradients: ByName) -> None:
        """Take a step of the first ``active`` clients; the gradients are overwritten."""
        plan = self.plan
        # Views, so that the step is taken in place.
        weights = [self.weights[name][:active] for name in gradients]
        steps = list(gradients.values())
        with torch.no_grad():
            if plan.weight_decay:
                torch._foreach_add_(steps, weights, alpha=plan.weight_decay)
            if plan.proximal_mu:
                pull(plan.proximal_mu, active, gradients, weights, self.starts)
            if plan.momentum:
                steps = self._accelerate(active, gradients)
            torch._foreach_add_(weights, steps, alpha=-plan.lr)

    def _accelerate(self, active: int, gradients: ByName) -> list[torch.Tensor]:
        """Return the direction of a step with momentum."""
        steps = list(gradients.values())
        if not self._velocity:
            # The first velocity is the gradient itself, as in torch.optim.SGD.
            self._velocity = {name: step.clone() for name, step in gradients.items()}
            velocity = list(self._velocity.values())
        else:
            velocity = [self._velocity[name][:active] for name in gradients]
            torch._foreach_mul_(velocity, self.plan.momentum)
            torch._foreach_add_(velocity, steps)
        if not self.plan.nesterov:
            return velocity
        torch._foreach_add_(steps, velocity, alpha=self.plan.momentum)
        return steps


def pull(
    mu: float,
    active: int,
    gradients: ByName,
    weights: Sequence[torch.Tensor],
    starts: ByName,
) -> None:
    """Add FedProx's pull to the start to gradients (active, …): Li et al. (MLSys 2020)."""
    for (name, gradient), weight in zip(gradients.items(), weights, strict=True):
        start = starts[name]
        # (1, …) meets any number of clients.
        if len(start) > 1:
            start = start[:active]
        gradient.add_(weight - start, alpha=mu)


def clip(gradients: ByName, limit: float) -> None:
    """Scale each client's gradients in place so that their joint L2 norm is at most ``limit``."""
    squares = []
    for gradient in gradients.values():
        squares.append(gradient.flatten(1).square().sum(1))
    norms = torch.stack(squares).sum(0).sqrt()
    # Gradients within the limit stay as they are; a norm of 0 gives an infinite factor.
    factors = (limit / norms).clamp(max=1.0)
    for gradient in gradients.values():
        gradient.mul_(factors.view(-1, *[1] * (gradient.dim() - 1)))
