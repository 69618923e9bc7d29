"""A large dense layer whose clients all multiply by the round's own weight: no client's weight is ever formed.

After some steps of plain SGD a client's weight is W − lr Σ DᵀX, over the inputs X and the gradients D of its outputs, step by
step. So all clients share one product with W, and each adds a thin correction, in place of a product, a gradient and a step of
its own. That pays as long as the samples of all steps together are far fewer than the layer is wide. Exact but for rounding.

Legend: K clients, B batch, F inputs, G outputs of the layer, R rows: the samples of all steps so far.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass
class Steps:
    """What clients' steps did to a weight."""

    lr: float
    inputs: torch.Tensor  # (K, all rows, F)
    gradients: torch.Tensor  # (K, all rows, G)
    rows: int = 0

    @staticmethod
    def room(clients: int, rows: int, weight: torch.Tensor, lr: float) -> Steps:
        """Return room for so many rows of each client, which are all zero."""
        outputs, inputs = weight.shape
        return Steps(
            lr,
            weight.new_zeros(clients, rows, inputs),
            weight.new_zeros(clients, rows, outputs),
        )

    def change(self, client: int) -> torch.Tensor:
        """Return a client's weight minus the weight that all share, (G, F)."""
        return product(
            self.gradients[client, : self.rows].t(),
            self.inputs[client, : self.rows].t(),
        ).mul_(-self.lr)


def linear(x: torch.Tensor, weight: torch.Tensor, steps: Steps) -> torch.Tensor:
    """Return (K, B, F) times each client's weight, (K, B, G)."""
    out: torch.Tensor = _Linear.apply(x, weight, steps)  # type: ignore[no-untyped-call]
    return out


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, steps: Steps
    ) -> torch.Tensor:
        clients, batch, inputs = x.shape
        out = product(x.reshape(-1, inputs), weight).view(clients, batch, -1)
        before = steps.rows
        if before:
            past = torch.bmm(x, steps.inputs[:clients, :before].transpose(1, 2))
            out.baddbmm_(past, steps.gradients[:clients, :before], alpha=-steps.lr)
        steps.inputs[:clients, before : before + batch] = x
        ctx.weight, ctx.steps = weight, steps
        return out

    @staticmethod
    def backward(
        ctx: Any, *found: torch.Tensor
    ) -> tuple[torch.Tensor | None, None, None]:
        (gradient,) = found
        steps, weight = ctx.steps, ctx.weight
        clients, batch, outputs = gradient.shape
        before, back = steps.rows, None
        if ctx.needs_input_grad[0]:
            back = product(gradient.reshape(-1, outputs), weight.t()).view(
                clients, batch, -1
            )
            if before:
                past = torch.bmm(
                    gradient, steps.gradients[:clients, :before].transpose(1, 2)
                )
                back.baddbmm_(past, steps.inputs[:clients, :before], alpha=-steps.lr)
        steps.gradients[:clients, before : before + batch] = gradient
        steps.rows = before + batch
        return back, None, None


def product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return x (R, F) times weight (G, F), transposed, (R, G).

    On a CPU by oneDNN: torch itself takes MKL, which reaches 40 % of what an AMD core can do where oneDNN reaches 85 %.
    """
    if x.is_cuda or not _ONEDNN:
        return x @ weight.t()
    found: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
        x, weight, None, "none", [], ""
    )
    return found


_ONEDNN = (
    torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)
