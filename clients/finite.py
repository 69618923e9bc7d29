"""Whether what a client learned is finite, and otherwise where that most likely comes from.

A learning rate is at fault where losses grow. It has no part in a loss that is not finite
before the first step, and a lower one would only hide that.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from fedlearn.errors import ClientError
from fedlearn.plan import Plan

# What forward, backward and data can do by themselves.
_OWN_FAULTS = "a logarithm or a division by 0, or a std() of one sample"


def check_finite(
    client: int, plan: Plan, losses: torch.Tensor, floats: NDArray[np.float32]
) -> None:
    """Raise ClientError for an update, floats (P,), that is not finite.

    losses: of the steps taken (S,), or their mean where there was one step.
    """
    if math.isfinite(float(losses.mean())) and np.isfinite(floats).all():
        return
    raise ClientError(_reason(client, plan, losses.flatten().tolist()))


def _reason(client: int, plan: Plan, losses: list[float]) -> str:
    finite = [loss for loss in losses if math.isfinite(loss)]
    if not math.isfinite(losses[0]):
        return (
            f"client {client}: its loss is {losses[0]:g} in round {plan.round} before its "
            f"first step; {_cause(plan)}"
        )
    # Of one step the weights that it led to are seen by nobody, and the loss says nothing.
    if len(finite) == len(losses) and len(losses) == 1:
        return (
            f"client {client}: its update is not finite in round {plan.round} though its "
            f"loss is {losses[0]:g}; lower train.lr, or look for a gradient that is not "
            "finite, such as that of a square root at 0"
        )
    last = next((loss for loss in losses if not math.isfinite(loss)), losses[-1])
    reason = (
        f"client {client} diverged in round {plan.round}: its loss became {last:g}; "
        "lower train.lr or set train.clip_norm"
    )
    # One step earlier nothing was unusual: then it may be the model for some samples.
    if max(finite) <= 2 * finite[0]:
        reason += f", or look in the model for {_OWN_FAULTS}"
    return reason


def _cause(plan: Plan) -> str:
    """Return where to look when a loss is not finite before anything was learned."""
    places = f"look in the model and its data for {_OWN_FAULTS}"
    if plan.precision == "float16":
        places = f'{places}, or set train.precision = "bfloat16"'
    if plan.round > 1:
        places = f"{places}; if earlier losses grew, lower train.lr"
    return places
