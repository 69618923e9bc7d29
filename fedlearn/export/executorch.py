"""A trained model for ExecuTorch, with XNNPACK's kernels: phones and boards without Python."""

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

FILE = "model.pte"


def export(trained: Trained, folder: Path, limit_s: int = LIMIT_S) -> Artefact:
    """Write a trained model as a ``.pte`` for batches of one sample into a folder.

    limit_s: seconds of CPU for lowering it. Raises UserError without the extra
    ``executorch``, and ModelError for a model that cannot be lowered, or not in time, and
    for one that ExecuTorch itself cannot run.
    """
    # What lowers takes seconds to import, and runs in another process.
    runtime = required("executorch.runtime", "executorch", "ExecuTorch")
    files.replace(folder / FILE, lowered(trained, "ExecuTorch", limit_s))
    return Artefact(
        label="executorch",
        folder=folder,
        files=(FILE,),
        score=of_samples(_scorer(runtime, folder / FILE), trained),
        batches=((1, None),),
        notes=(ONE_SAMPLE,),
    )


def _scorer(runtime: Any, path: Path) -> Scorer:
    """Return a function that scores batches of one sample by ExecuTorch's runtime."""
    import torch

    try:
        program = runtime.Runtime.get().load_program(path.read_bytes())
        method = program.load_method("forward")
    # What a kernel that is missing raises is RuntimeError.
    except Exception as error:
        raise ModelError(
            f"ExecuTorch does not load {path.name}: {reason_of(error)}"
        ) from error
    # A method does not keep its program alive, and fails without it.
    loaded = (program, method)

    def score(inputs: NDArray[Any]) -> NDArray[np.float32]:
        outputs = loaded[1].execute([torch.from_numpy(inputs)])
        # The next call writes into the same memory.
        scores: NDArray[np.float32] = outputs[0].numpy().copy()
        return scores

    return score
