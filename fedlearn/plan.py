"""Plan: what one round asks of each client of its cohort."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields

from fedlearn.errors import FormatError


@dataclass(frozen=True)
class Plan:
    """What a client does with the model it is sent; frozen, and the same text on both ends.

    task: "update" trains and answers with the difference of the models; "gradient" answers with minus the
    gradient of the mean loss over ``accumulate`` mini-batches at the weights sent.
    """

    round: int  # counted from 1
    seed: int  # of the experiment; every random number of the client derives from it
    task: str = "update"
    epochs: int = 1  # passes over the client's samples
    steps: int = 0  # optimiser steps; when above 0 it replaces epochs
    batch_size: int = 10  # samples; 0 = all of the client's
    accumulate: int = 1  # mini-batches whose gradients are averaged into one step
    lr: float = 0.1
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    clip_norm: float = 0.0  # largest L2 norm of a step's gradient; 0 = no clipping
    label_smoothing: float = 0.0
    proximal_mu: float = (
        0.0  # FedProx's pull towards the weights sent (Li et al., MLSys 2020)
    )
    precision: str = "float32"  # or "bfloat16", "float16": autocast of the forward pass
    augment: str = ""
    codec: str = "raw32"  # how the answer is encoded
    stragglers: float = (
        0.0  # share of clients that do a part of their epochs, or steps, in a round
    )
    straggler_work: str = (
        "partial"  # what they answer with: that part's update, or "none"
    )

    def to_json(self) -> str:
        """Return the plan as one line of JSON; fields of `LATER` stand in it only where they ask for something."""
        values = {
            name: value
            for name, value in asdict(self).items()
            if name not in LATER or value != LATER[name]
        }
        return json.dumps(values, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Return the plan of a line of JSON; raises FormatError when it is not one."""
        try:
            values = json.loads(text)
            plan = cls(**values)
        except (TypeError, ValueError) as error:
            raise FormatError(f"not a plan: {error}") from None
        for f in fields(cls):
            value, kind = getattr(plan, f.name), f.type
            fits = (
                isinstance(value, int | float)
                if kind == "float"
                else type(value).__name__ == kind
            )
            if not fits or (kind == "float" and isinstance(value, bool)):
                raise FormatError(f"not a plan: '{f.name}' is {value!r}, not {kind}")
        return plan


LATER = {"stragglers": 0.0, "straggler_work": "partial"}
"""Fields that the first agents do not know, and what they do anyway: a plan that asks for nothing else is one that they can read."""
