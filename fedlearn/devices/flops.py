"""The floating-point operations of one sample, counted by a model on tensors without values."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

# Samples of the counted pass: BatchNorm does not train on one.
BATCH = 2


@dataclass(frozen=True)
class Flops:
    """Operations per sample; a multiplication and an addition count as two."""

    forward: float
    # Forward and backward.
    training: float


class _FlopCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up products of matrices and convolutions as they are called; the others are small.

    The backward pass costs as much again for each factor that needs a gradient: both factors, but
    not the data of the first layer. It is not run: torch's own counter counts the backward pass of
    grouped convolutions too high (mobilenet-small: 127 MFLOP instead of 32).
    """

    forward = 0.0
    training = 0.0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        out = function(*args, **kwargs)
        formula = flop_registry.get(function._overloadpacket)
        if formula is not None:
            flops = float(formula(*args, **kwargs, out_val=out))
            # A tensor of one dimension is a bias, which is no factor.
            factors = [a for a in args if isinstance(a, torch.Tensor) and a.dim() > 1]
            gradients = sum(factor.requires_grad for factor in factors)
            self.forward += flops
            self.training += flops * (1 + min(2, gradients))
        return out


def count(module: nn.Module, input_shape: tuple[int, ...], text: bool = False) -> Flops:
    """Return what a sample of ``input_shape`` costs; text counts at full length.

    The module is left as it was. Where it cannot run on tensors without values, or nothing in it
    is counted, a sample costs two operations per parameter forward and four backward.
    """
    counter = _FlopCounter()  # type: ignore[no-untyped-call]
    try:
        # The meta device has shapes and no values, so a large model costs no time or memory.
        bare = copy.deepcopy(module).to("meta").train()
        dtype = torch.long if text else torch.float32
        x = torch.zeros((BATCH, *input_shape), dtype=dtype, device="meta")
        with torch.enable_grad(), counter:
            bare(x)
    # The model may be a user's code, and may look at values.
    except Exception:
        counter.forward = 0.0
    if not counter.forward:
        parameters = float(sum(p.numel() for p in module.parameters()))
        return Flops(2 * parameters, 6 * parameters)
    return Flops(counter.forward / BATCH, counter.training / BATCH)
