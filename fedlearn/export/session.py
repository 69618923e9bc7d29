"""ONNX Runtime as exported models are checked with: on the CPU, on one thread."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlearn.errors import ModelError, reason_of
from fedlearn.export.extras import required
from fedlearn.package import runtime
from fedlearn.runs.trained import Trained

# Takes inputs (B, …) and gives scores (B, K), or (B, T, K) for text.
Scorer = Callable[[NDArray[Any]], NDArray[np.float32]]


def session(graph: Path) -> Any:
    """Return an ``onnxruntime.InferenceSession`` of a file.

    Raises UserError without the extra ``export``, and ModelError for a file that ONNX Runtime
    refuses.
    """
    onnxruntime = required("onnxruntime", "export", "ONNX Runtime")
    options = runtime.options(onnxruntime)
    try:
        return onnxruntime.InferenceSession(
            str(graph), options, providers=["CPUExecutionProvider"]
        )
    # Its own errors have no common class.
    except Exception as error:
        raise ModelError(
            f"ONNX Runtime does not load {graph.name}: {reason_of(error)}"
        ) from error


def scorer(graph: Path) -> Scorer:
    """Return a function from inputs to scores, by ONNX Runtime; raises as `session`."""
    opened = session(graph)
    name = opened.get_inputs()[0].name

    def score(inputs: NDArray[Any]) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = opened.run(None, {name: inputs})[0]
        return scores

    return score


def of_samples(score: Scorer, trained: Trained) -> Scorer:
    """Return a scorer of a model's samples, by one that takes them in their full shape alone."""
    if trained.population.modality != "text":
        return score
    return at_full_length(score, trained.population.input_shape[0])


def at_full_length(score: Scorer, length: int) -> Scorer:
    """Return a scorer of texts of any T, by one that takes texts of ``length`` alone.

    Texts are padded at their end, and scores cut there: a score depends on earlier bytes
    alone.
    """

    def padded(inputs: NDArray[Any]) -> NDArray[np.float32]:
        time = inputs.shape[1]
        filled = np.pad(inputs, ((0, 0), (0, length - time)))
        return score(filled)[:, :time]

    return padded
