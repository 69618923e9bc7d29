"""int8 variants: made by `fedlearn.export`, from a variant's own float graph."""

from __future__ import annotations

from pathlib import Path

from fedlearn.runs.trained import Trained

INT8_FILE = "int8.onnx"


def write_int8(trained: Trained, folder: Path) -> None:
    """Write a model in int8 into a folder. Raises UserError for a model that int8 refuses."""
    raise NotImplementedError
