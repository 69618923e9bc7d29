"""The floating-point operations that one sample costs a model, counted on tensors without values."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


@dataclass(frozen=True)
class Flops:
    """Operations per sample; a multiplication and an addition count as two."""

    forward: float
    training: float  # forward and backward


class _Count(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Adds up products of matrices and convolutions as they are called; all else is small beside them.

    Going back costs as much again for each factor that needs a gradient: both, but not the data of the first layer.
    torch's own counter run over the backward pass counts grouped convolutions too high (mobilenet-small: 127 MFLOP for 32).
    """

    forward = training = 0.0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = function(*args, **(kwargs or {}))
        formula = flop_registry.get(function._overloadpacket)
        if formula is not None:
            flops = float(formula(*args, **(kwargs or {}), out_val=out))
            factors = [
                a for a in args if isinstance(a, torch.Tensor) and a.dim() > 1
            ]  # a bias is none
            self.forward += flops
            self.training += flops * (1 + min(2, sum(a.requires_grad for a in factors)))
        return out


def count(module: nn.Module, input_shape: tuple[int, ...], text: bool = False) -> Flops:
    """Return what a sample of a shape costs, as text of full length where it is text.

    The module is left as it was. Where it cannot run on tensors without values, or nothing in it is counted, a sample
    costs two operations per parameter, and going back twice as many.
    """
    counter = _Count()  # type: ignore[no-untyped-call]
    batch = 2  # BatchNorm does not train on one sample
    try:
        bare = copy.deepcopy(module).to("meta").train()
        x = torch.zeros(
            (batch, *input_shape),
            dtype=torch.long if text else torch.float32,
            device="meta",
        )
        with torch.enable_grad(), counter:
            bare(x)
    except Exception:  # the model may be a user's code, and may look at values
        counter.forward = 0.0
    if not counter.forward:
        parameters = float(sum(p.numel() for p in module.parameters()))
        return Flops(2 * parameters, 6 * parameters)
    return Flops(counter.forward / batch, counter.training / batch)
