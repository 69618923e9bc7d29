"""The bound on a step's gradient, whatever the optimiser."""

from __future__ import annotations

import torch


def clip(gradients: list[torch.Tensor], limit: float) -> None:
    """Scale the gradients in place so that their joint L2 norm is at most ``limit``."""
    # The norm of the tensors' norms is the joint norm, in few kernels.
    norm = float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))))
    if norm > limit:
        torch._foreach_mul_(gradients, limit / norm)
