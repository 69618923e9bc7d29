"""A trained model for ExecuTorch, with XNNPACK's kernels: phones and boards without Python.

Lowering runs in a process of its own, as some models never end: torch unrolls an LSTM, step
by step.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlearn.errors import ModelError
from fedlearn.export.artefact import Artefact
from fedlearn.export.extras import required
from fedlearn.export.onnx import example, plain_module
from fedlearn.runs.trained import Trained
from fedlearn.system import files
from fedlearn.text import shortened

FILE = "model.pte"

# Seconds of CPU that a model may take. By the clock it may be more on a busy machine.
LIMIT_S = 60
CLOCK_LIMIT_S = 600


def export(trained: Trained, folder: Path, limit_s: int = LIMIT_S) -> Artefact:
    """Write a trained model as a ``.pte`` for batches of one sample into a folder.

    limit_s: seconds of CPU for lowering it. Raises UserError without the extra
    ``executorch``, and ModelError for a model that cannot be lowered, or not in time.
    """
    required("executorch.exir", "executorch", "ExecuTorch")
    with tempfile.TemporaryDirectory() as name:
        lowered = _lowered(trained, Path(name), limit_s)
    files.replace(folder / FILE, lowered)
    return Artefact(
        label="executorch",
        folder=folder,
        files=(FILE,),
        score=_scorer(folder / FILE),
        # Buffers on a board are of one size, which is planned when the model is lowered.
        batches=((1, None),),
        notes=("the file takes one sample at a time",),
    )


def _lowered(trained: Trained, folder: Path, limit_s: int) -> bytes:
    """Return the bytes of the lowered model. Raises ModelError."""
    import torch

    name = trained.experiment.model.name
    torch.save(plain_module(trained), folder / "module.pt")
    torch.save(example(trained, 1), folder / "example.pt")
    out = folder / FILE
    places = (folder / "module.pt", folder / "example.pt", out)
    command = [sys.executable, "-m", "fedlearn.export.lowering", *map(str, places)]
    # Where this process finds a user's modules, the child does, too.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    late = ModelError(
        f"model '{name}' is not lowered for ExecuTorch after {limit_s} s of CPU, and was "
        "given up; export it to ONNX"
    )
    try:
        child = subprocess.run(
            [*command, str(limit_s)],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=CLOCK_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise late from None
    if child.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        raise late
    if child.returncode:
        # The last line of a traceback is its error.
        lines = child.stderr.decode(errors="replace").strip().splitlines()
        reason = shortened(lines[-1] if lines else f"exit code {child.returncode}")
        raise ModelError(f"model '{name}' cannot be lowered for ExecuTorch: {reason}")
    return out.read_bytes()


def _scorer(path: Path) -> Any:
    """Return a function that scores batches of one sample by ExecuTorch's runtime."""
    import torch

    runtime = required("executorch.runtime", "executorch", "ExecuTorch")
    program = runtime.Runtime.get().load_program(path.read_bytes())
    method = program.load_method("forward")

    def score(inputs: NDArray[Any]) -> NDArray[np.float32]:
        # The method does not keep alive what it was loaded from.
        assert program is not None
        scores: NDArray[np.float32] = method.execute([torch.from_numpy(inputs)])[0].numpy()
        # The runtime writes every output into the same memory.
        return scores.copy()

    return score
