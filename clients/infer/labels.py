"""Scores as classes with names: Triton's classification extension, and what people read.

Legend: B batch, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedlearn.clients.infer.refusal import bad
from fedlearn.clients.infer.tensors import Array


def highest(scores: Array, count: int) -> Array:
    """Return the indices of the ``count`` highest scores, (B, count), the highest first.

    scores: (B, K). Of equal scores the first one comes first.
    """
    order = np.argsort(-scores.astype(np.float64), axis=-1, kind="stable")
    return order[..., :count]


def classes(
    output: Array, count: int, labels: Sequence[str], name: str
) -> list[list[str]]:
    """Return "score:index:label" of the highest scores of each sample, B lists.

    Without labels it is "score:index". Raises Refusal for what has no scores (B, K).
    """
    if output.ndim != 2 or output.dtype.kind not in "fiu":
        raise bad(
            f"output '{name}' has no scores of classes: its shape is {list(output.shape)}"
        )
    texts = []
    for scores, indices in zip(output, highest(output, count), strict=True):
        row = []
        for index in indices.tolist():
            label = f":{labels[index]}" if index < len(labels) else ""
            row.append(f"{scores[index]:f}:{index}{label}")
        texts.append(row)
    return texts
