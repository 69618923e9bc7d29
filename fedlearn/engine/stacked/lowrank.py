"""Large dense layers whose clients all multiply by the round's weight: none has its own.

After some steps of plain SGD, a client's weight is W - lr Σ DᵀX, summed over its steps,
with the inputs X and the gradients D of the outputs. So all clients share one product
with W, and each adds a thin correction instead of a product, a gradient and a step of its
own. That pays as long as the samples of all steps together are far fewer than the layer
is wide. It is exact but for rounding.

Legend: K clients, B batch, F inputs and G outputs of the layer, R rows: the samples of
all steps so far.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from fedlearn.plan import Plan

# Weights of a dense layer from which on it pays not to form each client's.
MIN_WEIGHTS = 1 << 18

# A layer's inputs and outputs must each be this many times the rows of all steps.
MIN_RATIO = 3


def _anchor() -> torch.Tensor:
    return torch.zeros(0, requires_grad=True)


@dataclass
class LowRankSteps:
    """What K clients' steps did to a weight that they share."""

    # The learning rate of each step.
    lr: float
    # (K, R after the last step, F): X of the module's docstring.
    inputs: torch.Tensor
    # (K, R after the last step, G): D.
    gradients: torch.Tensor
    # R: those beyond are zero, and of steps to come.
    rows: int = 0
    # An empty input whose gradient is asked for. Without it autograd would leave out a
    # first layer, since neither its inputs nor the shared weight need a gradient.
    anchor: torch.Tensor = field(default_factory=_anchor)

    @staticmethod
    def empty(clients: int, rows: int, weight: torch.Tensor, lr: float) -> LowRankSteps:
        """Return room for so many rows of each client, all zero."""
        outputs, inputs = weight.shape
        return LowRankSteps(
            lr,
            weight.new_zeros(clients, rows, inputs),
            weight.new_zeros(clients, rows, outputs),
        )

    def change(self, client: int) -> torch.Tensor:
        """Return a client's weight minus the weight that all share, (G, F)."""
        gradients = self.gradients[client, : self.rows]
        inputs = self.inputs[client, : self.rows]
        # DᵀX, since `product` transposes its second factor.
        change = product(gradients.t(), inputs.t())
        return change.mul_(-self.lr)


def plain_sgd(plan: Plan) -> bool:
    """Tell whether a plan's steps are plain SGD, whose sum is all that a weight needs."""
    return not (
        plan.optimizer != "sgd"
        or plan.momentum
        or plan.weight_decay
        or plan.clip_norm
        or plan.proximal_mu
        or plan.accumulate > 1
        or plan.answer == "gradient"
        or plan.precision != "float32"
    )


def shared_layers(
    module: nn.Module, names: Collection[str], rows: int
) -> Iterator[str]:
    """Yield the names of the weights that clients should share.

    names: weights that may be. rows: samples of all steps of a client.
    """
    for place, layer in module.named_modules():
        name = f"{place}.weight" if place else "weight"
        # A subclass may use its weight in another way.
        if type(layer) is not nn.Linear or name not in names:
            continue
        weight = layer.weight
        if weight.numel() >= MIN_WEIGHTS and MIN_RATIO * rows <= min(weight.shape):
            yield name


def rows_of(plan: Plan, steps: int, samples: Sequence[int]) -> int:
    """Return the rows of a client, at most. samples: of each client."""
    largest = max(samples)
    batch = min(plan.batch_size or largest, largest)
    return steps * batch


def linear(x: torch.Tensor, weight: torch.Tensor, steps: LowRankSteps) -> torch.Tensor:
    """Return x (K, B, F) times each client's weight, (K, B, G)."""
    out: torch.Tensor = _Linear.apply(  # type: ignore[no-untyped-call]
        x, weight, steps, steps.anchor
    )
    return out


class _Linear(torch.autograd.Function):
    """`linear` with its gradient, which also writes the step down."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        steps: LowRankSteps,
        anchor: torch.Tensor,
    ) -> torch.Tensor:
        clients, batch, inputs = x.shape
        out = product(x.reshape(-1, inputs), weight).view(clients, batch, -1)
        rows = steps.rows
        # The correction: x times the change of the client's weight, without forming it.
        if rows:
            past = torch.bmm(x, steps.inputs[:clients, :rows].transpose(1, 2))
            out.baddbmm_(past, steps.gradients[:clients, :rows], alpha=-steps.lr)
        steps.inputs[:clients, rows : rows + batch] = x
        ctx.weight = weight
        ctx.steps = steps
        return out

    @staticmethod
    def backward(
        ctx: Any, *gradients: torch.Tensor
    ) -> tuple[torch.Tensor | None, None, None, None]:
        (gradient,) = gradients
        steps: LowRankSteps = ctx.steps
        clients, batch, outputs = gradient.shape
        rows = steps.rows
        # A first layer's inputs need no gradient.
        back = None
        if ctx.needs_input_grad[0]:
            flat = gradient.reshape(-1, outputs)
            back = product(flat, ctx.weight.t()).view(clients, batch, -1)
            if rows:
                past_gradients = steps.gradients[:clients, :rows].transpose(1, 2)
                past = torch.bmm(gradient, past_gradients)
                back.baddbmm_(past, steps.inputs[:clients, :rows], alpha=-steps.lr)
        steps.gradients[:clients, rows : rows + batch] = gradient
        steps.rows = rows + batch
        return back, None, None, None


# torch's own product of matrices takes MKL on a CPU, which reaches 40 % of what an AMD
# core can do, where oneDNN reaches 85 %.
_HAS_ONEDNN = (
    torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)


def product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return x (R, F) times weight (G, F), transposed, (R, G)."""
    if x.is_cuda or not _HAS_ONEDNN:
        return x @ weight.t()
    out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
        x, weight, None, "none", [], ""
    )
    return out
