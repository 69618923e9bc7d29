"""SGD with momentum: the rule of `torch.optim.SGD`, without its overhead at each step."""

from __future__ import annotations

import torch

from fedlearn.clients.methods import methods_of
from fedlearn.clients.optimizers.clipping import clip
from fedlearn.plan import Plan


class Sgd:
    """SGD steps in place.

    Methods of the plan bend each step; see `fedlearn.clients.methods`.
    """

    def __init__(self, plan: Plan, weights: list[torch.Tensor]) -> None:
        """Take the plan, and the weights as the client was sent them."""
        self.plan = plan
        self.weights = weights
        self.velocity: list[torch.Tensor] = []
        self.methods = methods_of(plan, weights)

    @torch.no_grad()
    def step(self, gradients: list[torch.Tensor]) -> None:
        """Take one step; the gradients are overwritten."""
        plan = self.plan
        if plan.clip_norm:
            clip(gradients, plan.clip_norm)
        if plan.weight_decay:
            torch._foreach_add_(gradients, self.weights, alpha=plan.weight_decay)
        # After weight decay and before momentum: so FedProx's pull has the same bits as
        # a term of the loss would give.
        for method in self.methods:
            method.bend(gradients, self.weights)
        if plan.momentum:
            gradients = self._accelerate(gradients)
        torch._foreach_add_(self.weights, gradients, alpha=-plan.lr)

    def _accelerate(self, gradients: list[torch.Tensor]) -> list[torch.Tensor]:
        """Return the direction of a step with momentum."""
        if self.velocity:
            torch._foreach_mul_(self.velocity, self.plan.momentum)
            torch._foreach_add_(self.velocity, gradients)
        else:
            # torch.optim.SGD, too, begins with the first gradient itself, without dampening.
            self.velocity = [gradient.clone() for gradient in gradients]
        if not self.plan.nesterov:
            return self.velocity
        torch._foreach_add_(gradients, self.velocity, alpha=self.plan.momentum)
        return gradients
