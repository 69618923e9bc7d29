"""A trained model for LiteRT, formerly TensorFlow Lite: phones and small boards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlearn.errors import ModelError, reason_of
from fedlearn.export.artefact import ONE_SAMPLE, Artefact
from fedlearn.export.extras import required
from fedlearn.export.lowering import LIMIT_S, lowered
from fedlearn.export.session import Scorer, of_samples
from fedlearn.runs.trained import Trained
from fedlearn.system import files

FILE = "model.tflite"


def export(trained: Trained, folder: Path, limit_s: int = LIMIT_S) -> Artefact:
    """Write a trained model as a ``.tflite`` for batches of one sample into a folder.

    limit_s: seconds of CPU for converting it. Raises UserError without the extra ``litert``,
    and ModelError for a model that cannot be converted, or not in time, and for one that
    LiteRT itself cannot run.
    """
    # The converter takes seconds to import, and runs in another process.
    interpreter = required("ai_edge_litert.interpreter", "litert", "LiteRT")
    files.replace(folder / FILE, lowered(trained, "LiteRT", limit_s))
    return Artefact(
        label="litert",
        folder=folder,
        files=(FILE,),
        score=of_samples(_scorer(interpreter, folder / FILE), trained),
        batches=((1, None),),
        notes=(ONE_SAMPLE,),
    )


def _scorer(interpreter: Any, path: Path) -> Scorer:
    """Return a function that scores batches of one sample by LiteRT, on one thread."""
    try:
        opened = interpreter.Interpreter(str(path), num_threads=1)
        opened.allocate_tensors()
    # The converter knows operations that the runtime lacks; it says so by ValueError.
    except Exception as error:
        raise ModelError(
            f"LiteRT does not load {path.name}: {reason_of(error)}"
        ) from error
    place = opened.get_input_details()[0]["index"]
    output = opened.get_output_details()[0]["index"]

    def score(inputs: NDArray[Any]) -> NDArray[np.float32]:
        opened.set_tensor(place, inputs)
        opened.invoke()
        scores: NDArray[np.float32] = opened.get_tensor(output)
        return scores

    return score
