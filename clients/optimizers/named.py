"""torch's optimisers by their short names, and a user's own by import path.

Adam: Kingma and Ba, ICLR 2015. AdamW: Loshchilov and Hutter, ICLR 2019. AdaGrad: Duchi, Hazan
and Singer, JMLR 2011. RMSprop: Tieleman and Hinton, lecture 6.5 of "Neural Networks for
Machine Learning", 2012.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fedlearn.clients.methods import methods_of
from fedlearn.clients.optimizers.clipping import clip
from fedlearn.errors import ClientError, pass_on_signal, reason_of
from fedlearn.names import import_path, nearest
from fedlearn.plan import Plan

# Classes of torch.optim by the names of ``[train] optimizer``.
CLASSES = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "adagrad": torch.optim.Adagrad,
    "rmsprop": torch.optim.RMSprop,
}


class NamedOptimizer:
    """An optimiser of torch's kind, at work on one client's weights.

    Gradients are clipped first; methods of the plan bend them then; momentum and weight decay
    are the class's own.
    """

    def __init__(self, plan: Plan, weights: list[torch.Tensor]) -> None:
        """Take the plan, and the weights as the client was sent them. Raises ClientError."""
        self.plan = plan
        self.weights = weights
        self.methods = methods_of(plan, weights)
        self.optimizer = build(plan, weights)

    def step(self, gradients: list[torch.Tensor]) -> None:
        """Take one step; the gradients are overwritten."""
        with torch.no_grad():
            if self.plan.clip_norm:
                clip(gradients, self.plan.clip_norm)
            for method in self.methods:
                method.bend(gradients, self.weights)
        for weight, gradient in zip(self.weights, gradients, strict=True):
            weight.grad = gradient
        self.optimizer.step()
        # Otherwise they would be taken for an answer with gradients.
        for weight in self.weights:
            weight.grad = None


def build(plan: Plan, weights: Sequence[torch.Tensor]) -> torch.optim.Optimizer:
    """Return the optimiser of a plan; raises ClientError where it cannot be built.

    An own class is called as torch's are: with the weights, ``lr``, ``weight_decay`` where the
    plan has any, and the options.
    """
    name = plan.optimizer
    arguments: dict[str, Any] = {"lr": plan.lr, **plan.optimizer_options}
    if plan.weight_decay or name in CLASSES:
        arguments["weight_decay"] = plan.weight_decay
    if plan.momentum:
        arguments["momentum"] = plan.momentum
    if name in CLASSES:
        optimizer: Any = CLASSES[name]
    elif ":" in name:
        optimizer = import_path("optimizer", name)
    else:
        raise ClientError(
            f"the plan asks for the optimizer '{name}', which this version of fedlearn "
            f"does not have.{nearest(name, CLASSES)}"
        )
    try:
        built = optimizer(weights, **arguments)
    # The class may be a user's, and may raise anything.
    except (Exception, SystemExit) as error:
        pass_on_signal(error)
        raise ClientError(
            f"optimizer '{name}' cannot be built with {_written(arguments)}: "
            f"{reason_of(error)}"
        ) from error
    if not callable(getattr(built, "step", None)):
        raise ClientError(
            f"optimizer '{name}' gave a {type(built).__name__}; it must give a "
            "torch.optim.Optimizer"
        )
    return built  # type: ignore[no-any-return]


def _written(arguments: dict[str, Any]) -> str:
    return ", ".join(f"{key} = {value}" for key, value in arguments.items())
