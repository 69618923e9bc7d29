"""A trained model as OpenVINO's IR, made from its ONNX graph: for Intel's processors."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlearn.errors import ModelError, reason_of
from fedlearn.export.artefact import Artefact
from fedlearn.export.extras import required
from fedlearn.export.onnx import GRAPH_FILE, graph_of, write
from fedlearn.export.session import Scorer
from fedlearn.runs.trained import Trained
from fedlearn.system import files

GRAPH = "model.xml"
WEIGHTS = "model.bin"

# Floats stay floats, on one thread, as the others are measured.
_SETTINGS = {
    "INFERENCE_PRECISION_HINT": "f32",
    "INFERENCE_NUM_THREADS": 1,
    "NUM_STREAMS": 1,
    "PERFORMANCE_HINT": "LATENCY",
    "ENABLE_CPU_PINNING": False,
}


def export(trained: Trained, folder: Path) -> Artefact:
    """Write a trained model as ``model.xml`` and ``model.bin`` into a folder.

    Raises UserError without the extras ``export`` and ``openvino``, and ModelError for a
    graph that OpenVINO refuses.
    """
    openvino = required("openvino", "openvino", "OpenVINO")
    exported = graph_of(trained)
    core = openvino.Core()
    with tempfile.TemporaryDirectory() as name, files.named(name):
        write(exported, Path(name))
        try:
            model = core.read_model(str(Path(name) / GRAPH_FILE))
            _number_names(model)
            openvino.save_model(model, str(Path(name) / GRAPH), compress_to_fp16=False)
        # Its errors are RuntimeError, and others of its own.
        except Exception as error:
            raise ModelError(
                f"model '{trained.experiment.model.name}' cannot be exported to OpenVINO: "
                f"{reason_of(error)}"
            ) from error
        # The weights first: without them the graph cannot be loaded.
        for file in (WEIGHTS, GRAPH):
            files.replace(folder / file, (Path(name) / file).read_bytes())
    return Artefact(
        label="openvino",
        folder=folder,
        files=(GRAPH, WEIGHTS),
        score=_scorer(core, folder / GRAPH),
        notes=exported.notes,
    )


def _number_names(model: Any) -> None:
    """Name the operations that OpenVINO added by their place, in place.

    It counts them through a process, so that two exports would be different files.
    """
    for position, operation in enumerate(model.get_ordered_ops()):
        kind = operation.get_type_name()
        if re.fullmatch(rf"{kind}_\d+", operation.get_friendly_name()):
            operation.set_friendly_name(f"{kind}_{position}")


def _scorer(core: Any, graph: Path) -> Scorer:
    """Return a function that scores by OpenVINO on the CPU."""
    compiled = core.compile_model(str(graph), "CPU", _SETTINGS)
    request = compiled.create_infer_request()

    def score(inputs: NDArray[Any]) -> NDArray[np.float32]:
        request.infer([inputs])
        # The next call writes into the same memory.
        scores: NDArray[np.float32] = request.get_output_tensor(0).data.copy()
        return scores

    return score
