"""A trained model as TorchScript: for programs that load a model with LibTorch.

torch deprecates it in favour of ``torch.export``. It is here for devices that have LibTorch
already.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedlearn.errors import ModelError, reason_of
from fedlearn.export import branches
from fedlearn.export.artefact import Artefact
from fedlearn.export.onnx import example, plain_module
from fedlearn.runs.trained import Trained
from fedlearn.system import files

FILE = "model.pt"


def export(trained: Trained, folder: Path) -> Artefact:
    """Write a trained model as TorchScript into a folder.

    Raises ModelError for a model that torch cannot trace, or whose forward goes other ways for
    other inputs.
    """
    name = trained.experiment.model.name
    notes = branches.check(trained, plain_module(trained), example(trained, 2))
    stream = io.BytesIO()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            module = plain_module(trained)
            traced = torch.jit.trace(  # type: ignore[no-untyped-call]
                module, example(trained, 2), check_trace=False
            )
            torch.jit.save(traced, stream)
    # The module may be a user's.
    except Exception as error:
        raise ModelError(
            f"model '{name}' cannot be exported to TorchScript: {reason_of(error)}"
        ) from error
    files.replace(folder / FILE, _without_paths(stream))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = torch.jit.load(folder / FILE)  # type: ignore[no-untyped-call]

    def score(inputs: NDArray[Any]) -> NDArray[np.float32]:
        with torch.no_grad():
            scores: NDArray[np.float32] = loaded(torch.from_numpy(inputs)).numpy()
        return scores

    return Artefact("torchscript", folder, (FILE,), score, notes=notes)


def _without_paths(stream: io.BytesIO) -> bytes:
    """Return an archive without its debug records, which name the sources on this machine."""
    stream.seek(0)
    reader = torch._C.PyTorchFileReader(stream)
    output = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(output)
    for record in reader.get_all_records():
        # The writer makes its own version and id.
        is_own = record in ("version", "byteorder") or record.startswith(".data/")
        if is_own or record.endswith(".debug_pkl"):
            continue
        content = reader.get_record(record)
        writer.write_record(record, content, len(content))
    writer.write_end_of_file()
    return output.getvalue()
