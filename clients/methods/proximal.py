"""FedProx's client half: the gradient of mu/2 ‖w − w₀‖² is added to each step.

Source: Li, Sahu, Zaheer, Sanjabi, Talwalkar and Smith, "Federated Optimization in
Heterogeneous Networks" (MLSys 2020).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


class Proximal:
    """A pull towards the weights that the client was sent."""

    def __init__(self, number: float, weights: Sequence[torch.Tensor]) -> None:
        """Take mu, and the weights at the start."""
        self.mu = number
        # Clones, because each step changes the weights in place.
        self.anchors = [weight.detach().clone() for weight in weights]

    def bend(
        self, gradients: list[torch.Tensor], weights: Sequence[torch.Tensor]
    ) -> None:
        """Add mu · (w − w₀) to each weight's gradient."""
        places = zip(gradients, weights, self.anchors, strict=True)
        for gradient, weight, anchor in places:
            gradient.add_(weight - anchor, alpha=self.mu)
