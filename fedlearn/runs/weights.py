"""The weights that a run starts from: those of a run, of a package, or of a safetensors file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedlearn.arrays import Entry, Layout, State
from fedlearn.errors import ConfigError, ModelError, PackageError, reason_of
from fedlearn.package.content import is_package
from fedlearn.package.content import tensors as read_tensors
from fedlearn.records.names import CONFIG_FILE, MODEL_FILE
from fedlearn.text import first_few


@dataclass(frozen=True)
class Weights:
    """Named tensors, float32 or int64, and where they come from."""

    source: str
    tensors: Mapping[str, NDArray[np.generic]]
    # A package has floats alone: counters say how long was trained, and infer nothing.
    is_package: bool = False

    @property
    def shapes(self) -> dict[str, list[int]]:
        """Return the shape of each tensor, by its name."""
        return {name: list(tensor.shape) for name, tensor in self.tensors.items()}

    def fitted(self, layout: Layout, initial: State) -> State:
        """Return the tensors in the order of a layout.

        initial: of the model itself; its integers stand in for those of a package. Raises
        ModelError for a tensor that is missing, has another shape, is left over, or is not
        finite.
        """
        unknown = [
            name
            for name in self.tensors
            if name not in {entry.name for entry in layout.entries}
        ]
        if unknown:
            raise ModelError(
                f"weights = '{self.source}' has tensors that the model lacks: "
                f"{first_few(unknown)}; give the model that they were trained in"
            )
        floats = np.zeros(layout.floats, np.float32)
        integers = initial.integers.copy()
        for entry, start in layout.starts():
            if self.is_package and not entry.is_float:
                continue
            tensor = self._fitting(entry)
            vector: NDArray[np.generic] = floats if entry.is_float else integers
            vector[start : start + entry.size] = tensor.reshape(-1)
        return layout.tie(State(floats, integers))

    def _fitting(self, entry: Entry) -> NDArray[np.generic]:
        """Return the tensor of an entry. Raises ModelError."""
        tensor = self.tensors.get(entry.name)
        if tensor is None:
            raise ModelError(
                f"weights = '{self.source}' lacks the model's tensor '{entry.name}' "
                f"{list(entry.shape)}; give the model that they were trained in"
            )
        if tensor.shape != entry.shape:
            pruned = ""
            # Layers can become wider or narrower, but not of another kind.
            if tensor.ndim == len(entry.shape):
                pruned = ', or shapes = "weights" if layers were pruned'
            raise ModelError(
                f"weights = '{self.source}' has '{entry.name}' as {list(tensor.shape)}, "
                f"the model as {list(entry.shape)}; give the model that they were "
                f"trained in{pruned}"
            )
        if not np.isfinite(tensor).all():
            raise ModelError(
                f"weights = '{self.source}': '{entry.name}' has NaN or infinite values; "
                "give a model that was trained without diverging"
            )
        return tensor


def read_weights(source: str) -> Weights:
    """Return the weights of a run folder, a package, or a safetensors file.

    Raises ConfigError for what is none of them, or cannot be read.
    """
    path = Path(source).expanduser()
    if path.is_dir() and is_package(path):
        return Weights(source, _read_package(source, path), is_package=True)
    if path.is_dir():
        return Weights(source, _read_safetensors(source, _model_of(source, path)))
    return Weights(source, _read_safetensors(source, path))


def _model_of(source: str, folder: Path) -> Path:
    """Return the file of a run folder's final model. Raises ConfigError."""
    path = folder / MODEL_FILE
    if path.exists():
        return path
    if (folder / CONFIG_FILE).exists():
        raise ConfigError(
            f"weights = '{source}' is a run that is not finished; "
            f"resume it first: fedlearn simulate --resume --out {source}"
        )
    raise ConfigError(
        f"weights = '{source}' is a folder without {MODEL_FILE}; "
        "give a run folder, a package, or a safetensors file"
    )


def _read_package(source: str, path: Path) -> dict[str, NDArray[np.generic]]:
    """Return a package's tensors, all of it checked. Raises ConfigError."""
    try:
        return dict(read_tensors(path))
    except (PackageError, OSError) as error:
        raise ConfigError(
            f"weights = '{source}' cannot be read: {reason_of(error)}; "
            "fetch the package anew"
        ) from None


def _read_safetensors(source: str, path: Path) -> dict[str, NDArray[np.generic]]:
    """Return a file's tensors as float32 and int64. Raises ConfigError."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise ConfigError(
            f"weights = '{source}' cannot be read: {reason_of(error)}; "
            "give a run folder, a package, or a safetensors file"
        ) from None
    # As states hold them: floats of any width as float32, all else as int64.
    arrays: dict[str, NDArray[np.generic]] = {}
    for name, tensor in tensors.items():
        widened = tensor.float() if tensor.is_floating_point() else tensor.long()
        arrays[name] = widened.numpy()
    return arrays
