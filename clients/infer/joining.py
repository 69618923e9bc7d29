"""What a second model's outputs must be to stand in the place of the first one's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fedlearn.clients.infer.model import ServedModel
from fedlearn.clients.infer.tensors import Array, fits
from fedlearn.clients.infer.upstream import UpstreamAnswer, UpstreamError
from fedlearn.errors import UserError


def scores_place(model: ServedModel, output: str, classes: int = 0) -> int:
    """Return which output has the scores: of a name, or the first one. Raises UserError.

    classes: how many scores a sample has to have; 0: any number.
    """
    # A route's threshold was fitted on scores, and not on what a function makes of them.
    if model.functions is not None and model.functions.after:
        raise UserError(
            "--routing reads the model's own scores, and this package has functions after "
            "the model; leave out --routing, or these functions"
        )
    names = [port.name for port in model.outputs]
    if output and output not in names:
        raise UserError(
            f"--routing: the model has no output '{output}'; it has {', '.join(names)}"
        )
    place = names.index(output) if output else 0
    if not model.batches or len(model.outputs[place].shape) != 2:
        raise UserError(
            f"--routing: output '{names[place]}' has to be scores of samples by classes, "
            "and the model to take any number of samples"
        )
    count = model.outputs[place].shape[1]
    if classes and count not in (classes, -1):
        raise UserError(
            f"--routing: it was fitted for {classes} classes, and output '{names[place]}' "
            f"has {count}; `fedlearn place route` fits one for this model"
        )
    return place


def fitting(model: ServedModel, answer: UpstreamAnswer, rows: int) -> list[Array]:
    """Return an answer's outputs in the model's order. Raises UpstreamError for others."""
    outputs = []
    for port in model.outputs:
        output = answer.outputs.get(port.name)
        shape = (rows, *port.shape[1:]) if model.batches else port.shape
        is_same = output is not None and output.dtype == port.dtype
        if output is None or not is_same or not fits(shape, output.shape):
            raise UpstreamError(
                f"the centre's model has no output '{port.name}' of {port.datatype} "
                f"{list(shape)}, as the one here"
            )
        outputs.append(output)
    return outputs


def merged(outputs: Sequence[Array], others: Sequence[Array], rows: Any) -> list[Array]:
    """Return outputs whose rows of some numbers are others, in that order."""
    joined = []
    for own, other in zip(outputs, others, strict=True):
        output = np.array(own)
        output[rows] = other
        joined.append(output)
    return joined
