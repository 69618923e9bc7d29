"""`Run`: a run as a Python object, read from its folder.

Legend: N samples, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedlearn import config
from fedlearn.config import Experiment
from fedlearn.errors import DataError, ModelError, RecordError, UserError
from fedlearn.names import handed_over, is_handed
from fedlearn.records.line import Line
from fedlearn.records.names import BEST_FILE, CONFIG_FILE, MODEL_FILE
from fedlearn.records.reading import RunRecord, read, section
from fedlearn.reporting.inline import run_html
from fedlearn.runs.arguments import folder_path

if TYPE_CHECKING:
    import pandas
    import torch
    from matplotlib.figure import Figure

# Samples that `Run.predict` hands to the model at a time: small enough for any memory.
_BATCH = 500


class Run:
    """A run that has ended, or as far as it has come; it is read once, when it is made."""

    def __init__(
        self, folder: str | Path, objects: Mapping[str, Any] | None = None
    ) -> None:
        """Read a run's folder.

        objects: what was handed over in the place of names, by its name in the config.
        Raises UserError for a folder that holds no run, RecordError for one that cannot
        be read.
        """
        self.folder = folder_path("folder", folder)
        self._objects = dict(objects or {})
        self._record = read(self.folder)

    @property
    def record(self) -> RunRecord:
        """Return what the folder's files hold, for `fedlearn.reporting`."""
        return self._record

    @property
    def rounds(self) -> list[Line]:
        """Return one mapping per round, from round 0, the initial model's evaluation."""
        return list(self._record.lines)

    @property
    def summary(self) -> Mapping[str, Any]:
        """Return the figures of the whole run; empty while it is not finished."""
        return self._record.summary

    @property
    def config(self) -> Experiment:
        """Return the experiment, with every default. Raises ConfigError."""
        return config.read_recorded(self.folder / CONFIG_FILE)

    @property
    def finished(self) -> bool:
        """Return whether the run came to its end."""
        return self._record.finished

    def frame(self) -> pandas.DataFrame:
        """Return the rounds as a table, one row each, without what is nested.

        Raises UserError where pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise UserError(
                "run.frame() needs pandas: pip install pandas (run.rounds does not)"
            ) from None
        # Nested values (failures, phases) have no column; run.rounds has them.
        rows = [
            {key: value for key, value in line.items() if not _is_nested(value)}
            for line in self.rounds
        ]
        return pandas.DataFrame(rows).set_index("round")

    def state_dict(self, best: bool = False) -> dict[str, torch.Tensor]:
        """Return the final model's tensors by name. Raises RecordError without a model.

        best: those of the best round, which a run with ``keep_best`` has.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self.folder / (BEST_FILE if best else MODEL_FILE)
        if best and self.finished and not path.exists():
            raise RecordError(
                f"{path} does not exist: the run kept no best model; "
                "set experiment.keep_best = true"
            )
        if not path.exists():
            raise RecordError(
                f"{path} does not exist: the run is not finished; resume it first"
            )
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise RecordError(f"cannot read {path}: {error}") from error

    def model(self, best: bool = False) -> torch.nn.Module:
        """Return the final model as a module of its own class, in evaluation mode.

        best: that of the best round, which a run with ``keep_best`` has.
        Raises RecordError without a model, and UserError where its code is not here.
        """
        from fedlearn.models import BINARY, SHAPES, build

        data = section(self._record.manifest, "data")
        if not {"input_shape", "classes", "modality"} <= data.keys():
            raise RecordError(
                f"{self.folder} was made by a version that did not record the shape of "
                "its samples; run.state_dict() has the model's tensors"
            )
        experiment = self.config
        state = self.state_dict(best)
        name = experiment.model.name
        if is_handed(name) and name not in self._objects:
            own_name = name.partition(":")[2]
            raise UserError(
                f"the model of {self.folder} was a Python object; hand it over again: "
                f"fedlearn.load({str(self.folder)!r}, model={own_name})"
            )
        # The model may be a class of the caller's own, which no import finds.
        options = experiment.model.options
        if experiment.model.shapes == "weights":
            shapes = {key: list(tensor.shape) for key, tensor in state.items()}
            options = options | {SHAPES: shapes}
        if experiment.model.binary:
            options = options | {BINARY: True}
        with handed_over(self._objects):
            module = build(
                experiment.model.name,
                options,
                input_shape=tuple(data["input_shape"]),
                classes=int(data["classes"]),
                seed=experiment.experiment.seed,
                modality=data["modality"],
            )
        _check_state(module, state)
        module.load_state_dict(state)
        return module.eval()

    def predict(
        self, x: Any, probabilities: bool = False, best: bool = False
    ) -> NDArray[Any]:
        """Return the class of each sample, (N,) int64, or (N, T) for text.

        x: (N, …) samples as the data set gives them, such as uint8 images; one sample
        without its N is taken too. They go through the casts of training, so that pictures
        may be whole numbers up to 255 or floats up to 1. probabilities: return those of
        every class instead, (N, K) or (N, T, K) float32. best: as in `model`. Raises DataError
        for samples that training would refuse.
        """
        import torch

        from fedlearn.clients.batches import tensors
        from fedlearn.data.samples import Samples

        module = self.model(best)
        data = section(self._record.manifest, "data")
        samples = _samples(x, tuple(data["input_shape"]), data["modality"])
        if not len(samples):
            lines = samples.shape[1:] if data["modality"] == "text" else ()
            shape = (0, *lines)
            if probabilities:
                return np.empty((*shape, int(data["classes"])), np.float32)
            return np.empty(shape, np.int64)
        outputs = []
        # Predicting needs no gradients, which would take the memory of all batches.
        with torch.no_grad():
            for start in range(0, len(samples), _BATCH):
                part = samples[start : start + _BATCH]
                # Targets are not looked at; a model takes inputs alone.
                targets = np.zeros(len(part), np.int64)
                batch = tensors(Samples(part, targets), data["modality"])
                outputs.append(module(batch.x).float().softmax(-1).numpy())
        scores: NDArray[np.float32] = np.concatenate(outputs)
        if probabilities:
            return scores
        classes: NDArray[np.int64] = scores.argmax(-1)
        return classes

    def plot(self) -> Figure:
        """Return a figure of accuracy over rounds and over bytes, and of the loss."""
        from fedlearn.reporting.inline import figure

        return figure([self._record])

    def __repr__(self) -> str:
        """Return the run's name, how far it came, and its folder."""
        done = self._record.lines[-1]["round"]
        state = "finished" if self.finished else "not finished"
        return f"<Run {self._record.name!r}: {done} rounds, {state}, {self.folder}>"

    def _repr_html_(self) -> str:
        return run_html(self._record)


class Comparison:
    """Several runs side by side; see `compare`."""

    def __init__(self, runs: Sequence[Run], target: float) -> None:
        """Take the runs. target: accuracy to count rounds and bytes to."""
        self.runs = list(runs)
        self.target = target

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Return one mapping of figures per run, as `fedlearn report` prints them."""
        from fedlearn.reporting.table import rows

        return rows([run.record for run in self.runs], self.target)

    def frame(self) -> pandas.DataFrame:
        """Return `rows` as a table. Raises UserError where pandas is not installed."""
        try:
            import pandas
        except ImportError:
            raise UserError("frame() needs pandas: pip install pandas") from None
        return pandas.DataFrame(self.rows)

    def plot(self) -> Figure:
        """Return a figure with the curves of all runs."""
        from fedlearn.reporting.inline import figure

        return figure([run.record for run in self.runs])

    def write(self, path: str | Path) -> Path:
        """Write the page of the comparison, as `fedlearn report` does; returns its path.

        Raises RecordError when it cannot be written.
        """
        from fedlearn.reporting.comparison import write_comparison

        records = [run.record for run in self.runs]
        page = folder_path("path", path)
        return write_comparison(records, self.rows, self.target, page)

    def _repr_html_(self) -> str:
        from fedlearn.reporting.inline import comparison_html

        return comparison_html(
            [run.record for run in self.runs], self.rows, self.target
        )


def _check_state(module: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Raise ModelError where a module is not the one that a state was trained with."""
    built = module.state_dict()
    for name in sorted(built.keys() | state.keys()):
        if name in built and name in state and built[name].shape == state[name].shape:
            continue
        raise ModelError(
            f"a {type(module).__name__} of these options is not the run's model: "
            f"'{name}' differs"
        )


def _is_nested(value: Any) -> bool:
    return isinstance(value, Mapping | list)


def _samples(x: Any, input_shape: tuple[int, ...], modality: str) -> NDArray[Any]:
    """Return samples (N, …) in the type of the training samples; see `Run.predict`."""
    from fedlearn.data import casts
    from fedlearn.data.own_arrays import NUMBERS, as_array

    where = "predict: x"
    array = _with_samples_axis(as_array(where, x), input_shape)
    if array.dtype.kind not in NUMBERS:
        raise DataError(f"{where} has dtype {array.dtype}; numbers are needed")
    if not len(array):
        return array
    if modality == "text":
        return casts.to_bytes(where, array)
    if modality == "image":
        return casts.to_pixels(where, array)
    return casts.to_float32(where, array)


def _with_samples_axis(x: NDArray[Any], input_shape: tuple[int, ...]) -> NDArray[Any]:
    """Return samples with their leading N, and images with their channel."""
    if x.shape == input_shape:
        x = x[np.newaxis]
    # Pictures of one channel are often stored without it.
    grey = len(input_shape) == 3 and input_shape[0] == 1
    if grey and x.shape == input_shape[1:]:
        x = x[np.newaxis, np.newaxis]
    elif grey and x.ndim == 3 and x.shape[1:] == input_shape[1:]:
        x = x[:, np.newaxis]
    if x.shape[1:] != input_shape:
        raise DataError(
            f"predict: samples of shape {x.shape[1:]}; the model takes {input_shape}"
        )
    return x
