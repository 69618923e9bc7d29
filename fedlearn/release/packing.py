"""A trained model made into a package: its graph, its weights and what it must answer.

The same run gives the same bytes, in any process. Golden outputs are computed in float64 and
rounded once, so that they do not depend on the kernels of one processor.

Legend: R reference samples, K classes.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedlearn.clients.batches import tensors as sample_tensors
from fedlearn.data.samples import Samples
from fedlearn.errors import DataError, PackageError, UserError
from fedlearn.export import branches
from fedlearn.export.about import labels as class_labels
from fedlearn.export.about import preprocessing
from fedlearn.export.int8 import Quantised, quantised
from fedlearn.export.onnx import (
    INPUT,
    Exported,
    example,
    graph_of,
    plain_module,
    weights_bytes,
)
from fedlearn.package import content, golden
from fedlearn.package.accepting import RUNTIME
from fedlearn.package.content import Package
from fedlearn.package.manifest import Manifest
from fedlearn.package.parts import (
    GRAPH_FILE,
    INT8_GRAPH_FILE,
    NAME,
    WEIGHTS_FILE,
    Health,
    ListedTensor,
    Origin,
    Port,
    Preprocessing,
    Support,
)
from fedlearn.runs.trained import Trained

# Samples behind the histograms: more would not move a decile.
REFERENCE = 1000

# Scored at a time.
_BATCH = 250

# Where samples of a modality, (R, …), have their channels or features; `Samples` has the shapes.
CHANNEL_AXES: Mapping[str, int] = {"image": 1, "series": 2, "features": 1}


@dataclass(frozen=True)
class Wishes:
    """What a person decides of a package, beside the run that it is made of.

    name: "" for the experiment's. devices: classes that it is for; empty: every device.
    labels: of the classes; empty: their numbers. All else as `Manifest` has it.
    """

    name: str = ""
    counter: int = 1
    expires: str | None = None
    rollback: int | None = None
    devices: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    keys: tuple[str, ...] | None = None
    int8: bool = False
    health: Health = field(default_factory=Health)


def pack(trained: Trained, folder: Path, wishes: Wishes) -> Package:
    """Write the package of a trained model to a new folder.

    It is there only after onnxruntime gave the golden outputs from its files. Raises
    UserError for wishes that fit no manifest, PackageError for a model whose outputs differ.
    """
    manifest, files = build(trained, wishes)
    return content.write(folder, manifest, files, proof=prove)


def notes(trained: Trained) -> tuple[str, ...]:
    """Return what a package's maker should know of its model, a sentence each. Raises as `pack`."""
    return branches.check(trained, plain_module(trained), example(trained, 2))


def prove(package: Package) -> None:
    """Raise PackageError where this machine's runtime gives other golden outputs."""
    golden.check(package)
    if package.manifest.int8 is not None:
        golden.check(package, int8=True)


def build(trained: Trained, wishes: Wishes) -> tuple[Manifest, dict[str, bytes]]:
    """Return the manifest and the files of a package, by their paths. Raises as `pack`."""
    exported = graph_of(trained)
    arrays = _arrays(trained, exported)
    steps = _preprocessing(trained)
    files = {
        GRAPH_FILE: exported.graph,
        WEIGHTS_FILE: weights_bytes(arrays),
    }
    small = quantised(trained, exported) if wishes.int8 else None
    if small is not None:
        files[INT8_GRAPH_FILE] = small.graph
    files |= _golden(trained, small).files()
    manifest = Manifest(
        name=_name(trained, wishes),
        counter=wishes.counter,
        targets=(Support(RUNTIME, exported.opset, wishes.devices),),
        files={path: content.listed(data) for path, data in files.items()},
        tensors=tuple(
            ListedTensor(name, array.shape) for name, array in arrays.items()
        ),
        input=_port(exported.input_name, exported.input_shape, exported.input_dtype),
        output=_port(exported.output_name, exported.output_shape, "float32"),
        preprocessing=steps,
        labels=_labels(trained, wishes),
        run=_origin(trained),
        health=wishes.health,
        expires=wishes.expires,
        rollback=wishes.rollback,
        keys=wishes.keys,
        int8=None if small is None else small.recipe,
    )
    # Read back for its errors: a wish may have no place in a manifest, and NaN none in JSON.
    try:
        manifest.to_bytes()
    except (PackageError, ValueError) as error:
        raise UserError(f"no package can say that: {error}") from None
    return manifest, files


def reference(trained: Trained) -> Samples:
    """Return the first R held-out samples. Raises DataError where there are none."""
    test = trained.population.test
    if not len(test):
        raise DataError(
            f"data set '{trained.population.name}' has no test samples, and a package "
            "needs 16 of them as golden inputs"
        )
    return test.take(np.arange(min(REFERENCE, len(test))))


def _golden(trained: Trained, small: Quantised | None) -> golden.Golden:
    samples = reference(trained)
    inputs = sample_tensors(samples, trained.population.modality).x
    exact = exact_outputs(trained, inputs[: golden.INPUTS])
    # Counts of many: a last bit hardly ever moves one, and float64 takes ten times as long.
    scores = _outputs(trained.module, inputs)
    axis = CHANNEL_AXES.get(trained.population.modality)
    answers = golden.golden(samples.x, scores, exact, axis)
    if small is None:
        return answers
    outputs = _int8_outputs(small, inputs[: golden.INPUTS].numpy())
    # Processors without instructions for int8 round sums otherwise. An int8 model may be as
    # far from its outputs here as those are from the float model's.
    loss = np.abs(outputs - exact).max(initial=0.0)
    tolerance = np.array(answers.tolerance + loss, np.float32)
    return replace(answers, int8_outputs=outputs, int8_tolerance=tolerance)


def _int8_outputs(small: Quantised, inputs: NDArray[Any]) -> NDArray[np.float32]:
    """Return an int8 model's outputs (N, …, K) float32, as onnxruntime computes them here."""
    model = golden.loaded(small.graph, small.tensors)
    outputs: NDArray[np.float32] = model.run(None, {INPUT: inputs})[0]
    return outputs


def exact_outputs(trained: Trained, inputs: torch.Tensor) -> NDArray[np.float32]:
    """Return the model's outputs (N, …, K) float32, computed in float64 and rounded once.

    inputs: (N, …) as the model takes them.
    """
    module = copy.deepcopy(trained.module).double()
    # Texts stay the numbers that they are.
    exact = inputs.double() if inputs.is_floating_point() else inputs
    return _outputs(module, exact)


def _outputs(module: torch.nn.Module, inputs: torch.Tensor) -> NDArray[np.float32]:
    parts = []
    module.eval()
    with torch.no_grad():
        for batch in torch.split(inputs, _BATCH):
            parts.append(module(batch).float())
    outputs: NDArray[np.float32] = torch.cat(parts).numpy()
    return outputs


def _arrays(trained: Trained, exported: Exported) -> Mapping[str, NDArray[Any]]:
    """Return the tensors of weights.bin: the graph's, then floats that it does without.

    Those are there for a run that starts from the package.
    """
    arrays: dict[str, NDArray[Any]] = dict(exported.tensors)
    for entry in trained.layout.entries:
        if entry.is_float and entry.name not in arrays:
            arrays[entry.name] = exported.unused[entry.name].astype(np.float32)
    return arrays


def _name(trained: Trained, wishes: Wishes) -> str:
    name = wishes.name or trained.name
    if not NAME.fullmatch(name) or len(name) > 64:
        raise UserError(
            f"'{name}' cannot be a package's name: use up to 64 of a-z, 0-9, '.', '_' and "
            "'-', as in --name traffic-counter"
        )
    return name


def _labels(trained: Trained, wishes: Wishes) -> tuple[str, ...]:
    classes = trained.population.classes
    if not wishes.labels:
        return tuple(class_labels(trained.population))
    if len(wishes.labels) != classes:
        raise UserError(
            f"--labels names {len(wishes.labels)} classes, and the model has {classes}"
        )
    return wishes.labels


def _preprocessing(trained: Trained) -> Preprocessing:
    steps = preprocessing(trained.population)
    divide = steps.get("divide")
    return Preprocessing(
        dtype=steps["dtype"],
        cast=steps["cast"],
        divide=None if divide is None else float(divide),
    )


def _port(name: str, shape: tuple[int | str, ...], dtype: str) -> Port:
    """Return an input or output; axes with names have any length."""
    lengths = [length if isinstance(length, int) else None for length in shape]
    return Port(name, tuple(lengths), dtype)


def _origin(trained: Trained) -> Origin:
    experiment = trained.experiment
    return Origin(
        model=experiment.model.name,
        model_sha256=trained.model_sha256,
        config_sha256=trained.config_sha256,
        codec=experiment.codec.up,
    )
