"""The client halves of methods: what a number in the plan changes in local training.

A method is a file of this folder and a line of `METHODS`. A plan that carries the method's
number turns it on; strategies send that number, or a config's ``[strategy.methods]`` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from fedlearn.errors import ClientError
from fedlearn.names import Named, import_path, nearest
from fedlearn.plan import Plan

# The number's name in a plan → its method.
METHODS = {
    "proximal_mu": Named(
        "fedlearn.clients.methods.proximal:Proximal",
        "FedProx: pulls each step towards the weights that the client was sent",
    ),
}


class Method(Protocol):
    """One method at work in one client's training, made anew for each."""

    def __init__(self, number: float, weights: Sequence[torch.Tensor]) -> None:
        """Take the plan's number, and the trained weights as the client was sent them."""

    def bend(
        self, gradients: list[torch.Tensor], weights: Sequence[torch.Tensor]
    ) -> None:
        """Change a step's gradients in place.

        They are clipped and have their weight decay; momentum comes after. The order of
        both lists is that of the module's trained parameters.
        """


def methods_of(plan: Plan, weights: Sequence[torch.Tensor]) -> list[Method]:
    """Return the methods that a plan turns on, in the order of `METHODS`.

    Raises ClientError for one that this version of fedlearn does not have.
    """
    numbers = plan.method_numbers
    for name in numbers:
        # Ignored, it would train by another algorithm than the config names.
        if name not in METHODS:
            raise ClientError(
                f"the plan asks for the method '{name}', which this version of fedlearn "
                f"does not have.{nearest(name, METHODS)}"
            )
    return [
        import_path("method", named.path)(numbers[name], weights)
        for name, named in METHODS.items()
        if name in numbers
    ]
