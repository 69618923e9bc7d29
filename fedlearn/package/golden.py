"""The golden file: inputs with the outputs that a model must give, on every board.

A package that is what its signature says may still compute something else on a device: by
another runtime, other kernels, a fault. So a device runs these inputs before it serves. The
histograms tell later whether what comes in is still like what the model was tested on.

Legend: N inputs, K classes, E edges, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedlearn.errors import FormatError, PackageError, UserError, reason_of
from fedlearn.package import npz, runtime
from fedlearn.package.content import Package
from fedlearn.package.histograms import BINS, confidence_histogram, input_histogram
from fedlearn.package.int8 import Tensors, rebuild
from fedlearn.package.manifest import Manifest
from fedlearn.package.matching import inspected
from fedlearn.package.parts import (
    GOLDEN_FILE,
    GRAPH_FILE,
    INT8_GRAPH_FILE,
    SAMPLES_FILE,
    Preprocessing,
)
from fedlearn.system import malloc

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

# Inputs in a package: enough for every class of a small model, and small to send.
INPUTS = 16

# Where the bins of inputs end, as shares of the values.
_SHARES = np.linspace(0, 1, BINS + 1)[1:-1]

# Channels that have a histogram of their own; an image of 784 features has one of all.
MOST_CHANNELS = 64

# Outputs differ between processors by their rounding: eight models showed 5.8e-6 at most.
# An output may be off by the first, or by the second times the largest one.
TOLERANCE = 1e-4
RELATIVE_TOLERANCE = 1e-5


# What follows from the test samples alone: the larger part by far.
OF_SAMPLES = {
    *("inputs", "input_edges", "input_counts"),
    *("channel_axis", "channel_edges", "channel_counts"),
}


@dataclass(frozen=True)
class Golden:
    """The arrays of a golden file.

    inputs: (N, …) raw samples, in the data's own dtype. outputs: (N, …, K) float32.
    tolerance: (), float32, the largest difference that an output may have. input_edges:
    (E,) float32, input_counts: (E + 1,) int64, how many input values of the reference
    samples lie between them. class_counts: (K,) int64, how often each class had the highest
    score. confidence_counts: (10,) int64, of its probability, in tenths. channel_axis,
    channel_edges, channel_counts: (), (C, 9) and (C, 10), the same histogram of each channel
    along an axis of the samples; none where there is one channel, or more than 64.
    int8_outputs, int8_tolerance: of the int8 model, where there is one.
    """

    inputs: NDArray[Any]
    outputs: NDArray[np.float32]
    tolerance: NDArray[np.float32]
    input_edges: NDArray[np.float32]
    input_counts: NDArray[np.int64]
    class_counts: NDArray[np.int64]
    confidence_counts: NDArray[np.int64]
    channel_axis: NDArray[np.int64] | None = None
    channel_edges: NDArray[np.float32] | None = None
    channel_counts: NDArray[np.int64] | None = None
    int8_outputs: NDArray[np.float32] | None = None
    int8_tolerance: NDArray[np.float32] | None = None

    def to_bytes(self) -> bytes:
        """Return all in one file: the same arrays are the same bytes."""
        return npz.dumps(self.arrays())

    def files(self) -> dict[str, bytes]:
        """Return two files: a device that has the samples of the release before keeps them."""
        parts: dict[str, dict[str, NDArray[Any]]] = {GOLDEN_FILE: {}, SAMPLES_FILE: {}}
        for name, array in self.arrays().items():
            path = SAMPLES_FILE if name in OF_SAMPLES else GOLDEN_FILE
            parts[path][name] = array
        return {path: npz.dumps(arrays) for path, arrays in parts.items()}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays that it has, by their names."""
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: array for name, array in arrays.items() if array is not None}


@dataclass(frozen=True)
class Check:
    """What this device's runtime made of the golden inputs.

    difference: the largest of any output. agreeing: the share of outputs with the same
    highest score. runtime: its name and version.
    """

    difference: float
    tolerance: float
    agreeing: float
    runtime: str


def golden(
    reference: NDArray[Any],
    scores: NDArray[np.float32],
    outputs: NDArray[np.float32],
    channel_axis: int | None = None,
) -> Golden:
    """Return the golden file of reference samples: the first ones, and histograms of all.

    reference: (R, …) raw samples. scores: (R, …, K) float32, what the model makes of them.
    outputs: (N, …, K) float32, likewise of the first N, as exactly as they are known.
    channel_axis: the samples' axis of channels or features, None: they have none.
    """
    # Deciles, of which some may be equal: most pixels of a digit are 0.
    values = reference.reshape(-1).astype(np.float32)
    edges = np.unique(np.quantile(values, _SHARES, method="nearest"))
    classes = scores.argmax(-1).reshape(-1)
    largest = float(np.abs(outputs).max(initial=0.0))
    tolerance = max(TOLERANCE, RELATIVE_TOLERANCE * largest)
    return Golden(
        inputs=reference[: len(outputs)],
        outputs=outputs,
        tolerance=np.array(tolerance, np.float32),
        input_edges=edges,
        input_counts=input_histogram(reference, edges),
        class_counts=np.bincount(classes, minlength=scores.shape[-1]),
        confidence_counts=confidence_histogram(scores),
        **_channels(reference, channel_axis),
    )


def _channels(reference: NDArray[Any], axis: int | None) -> dict[str, NDArray[Any]]:
    """Return the histograms of channels, where there are a few."""
    if axis is None or not 2 <= reference.shape[axis] <= MOST_CHANNELS:
        return {}
    channels = np.moveaxis(reference, axis, 0)
    edges = []
    counts = []
    for channel in channels:
        values = channel.reshape(-1).astype(np.float32)
        # Equal ones stay: between them lies nothing, and all channels have one shape.
        deciles = np.quantile(values, _SHARES, method="nearest")
        edges.append(deciles)
        counts.append(input_histogram(channel, deciles))
    return {
        "channel_axis": np.array(axis, np.int64),
        "channel_edges": np.stack(edges),
        "channel_counts": np.stack(counts),
    }


def read(package: Package) -> Golden:
    """Return a package's golden file, whole or in two. Raises PackageError, "golden"."""
    if SAMPLES_FILE not in package.manifest.files:
        return from_bytes(package.file(GOLDEN_FILE), package.manifest)
    samples = npz.loads(package.file(SAMPLES_FILE), SAMPLES_FILE)
    answers = npz.loads(package.file(GOLDEN_FILE), GOLDEN_FILE)
    if not set(samples) <= OF_SAMPLES or set(samples) & set(answers):
        raise _wrong(f"and {SAMPLES_FILE} share their arrays otherwise")
    arrays = answers | samples
    order = [field.name for field in fields(Golden) if field.name in arrays]
    # A name that is no field stays at the end, and is refused.
    ordered = {name: arrays[name] for name in order} | arrays
    return _content(ordered, package.manifest)


def from_bytes(data: bytes, manifest: Manifest) -> Golden:
    """Return the golden file that bytes hold; they have to fit the manifest.

    Raises PackageError, "golden".
    """
    return _content(npz.loads(data, GOLDEN_FILE), manifest)


def _content(arrays: dict[str, Any], manifest: Manifest) -> Golden:
    """Return the golden file of arrays, which have to fit the manifest."""
    names = [field.name for field in fields(Golden)]
    if manifest.int8 is None:
        names = [name for name in names if not name.startswith("int8")]
    # Packages of before have no histograms of channels.
    if "channel_axis" not in arrays:
        names = [name for name in names if not name.startswith("channel")]
    if list(arrays) != names:
        raise _wrong("has other arrays than a package's")
    content = Golden(**arrays)
    _check_types(content, manifest)
    _check_shapes(content, manifest)
    for name in ("outputs", "tolerance", "int8_outputs", "int8_tolerance"):
        if name in arrays and not np.isfinite(arrays[name]).all():
            raise _wrong(f"has {name} that are no numbers")
    for name, array in arrays.items():
        if name.endswith("_counts") and array.min(initial=0) < 0:
            raise _wrong(f"has {name} below 0")
    return content


def session(package: Package, int8: bool = False) -> InferenceSession:
    """Return a package's model in onnxruntime, on one thread of the processor.

    int8: the int8 model, whose weights are rebuilt here. Graph and weights are the bytes
    that were checked, not whatever lies in the folder by now. Raises UserError without
    onnxruntime, PackageError, "runtime", where it refuses.
    """
    arrays: Tensors = package.tensors()
    file = GRAPH_FILE
    if int8:
        file = INT8_GRAPH_FILE
        arrays = rebuilt(package, arrays)
    graph = package.file(file)
    # weights.bin may have more: what a run needs that starts from it.
    names = inspected(package.manifest, graph, file).external
    return loaded(graph, {name: arrays[name] for name in names})


def loaded(graph: bytes, arrays: Tensors) -> InferenceSession:
    """Return a graph with the tensors that it looks for elsewhere. Raises as `session`."""
    onnxruntime = _runtime()
    options = runtime.options(onnxruntime)
    # Memory that grows by the largest batch and is never given back.
    options.enable_cpu_mem_arena = False
    values = [
        onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in arrays.values()
    ]
    options.add_external_initializers(list(arrays), values)
    try:
        model: InferenceSession = onnxruntime.InferenceSession(
            graph, options, providers=["CPUExecutionProvider"]
        )
    # It has an exception class for each of its codes, and none above them.
    except Exception as error:
        raise PackageError(
            "runtime",
            f"onnxruntime {onnxruntime.__version__} does not load the graph: "
            f"{reason_of(error)}",
        ) from None
    # What only the loading needed: 1.5 MB of cnn-small's 60.
    malloc.give_back()
    return model


def rebuilt(package: Package, arrays: Tensors) -> dict[str, NDArray[Any]]:
    """Return the tensors of a package's int8 model, made of its float ones.

    Raises PackageError, "int8", for a package that has none, or a recipe that does not fit.
    """
    recipe = package.manifest.int8
    if recipe is None:
        raise PackageError("int8", "the package has no int8 model")
    try:
        return rebuild(arrays, recipe)
    except FormatError as error:
        raise PackageError("int8", str(error)) from None


def prepared(samples: NDArray[Any], steps: Preprocessing) -> NDArray[Any]:
    """Return raw samples as the graph takes them: cast, then divided in float32."""
    inputs = samples.astype(steps.cast)
    if steps.divide is None:
        return inputs
    return inputs / np.float32(steps.divide)


def check(package: Package, int8: bool = False) -> Check:
    """Run the golden inputs on this device's runtime, and compare the outputs.

    int8: of the int8 model. Raises PackageError, "golden", for an output further off than
    the tolerance, and as `read` and `session`.
    """
    content = read(package)
    expected = content.outputs
    tolerance = content.tolerance
    if int8 and content.int8_outputs is not None and content.int8_tolerance is not None:
        expected = content.int8_outputs
        tolerance = content.int8_tolerance
    outputs = run(session(package, int8), package.manifest, content.inputs)
    check = _compared(outputs, expected, float(tolerance))
    malloc.give_back()
    return check


def run(
    model: InferenceSession, manifest: Manifest, samples: NDArray[Any]
) -> NDArray[np.float32]:
    """Return what a model makes of raw samples (N, …), float32 (N, …, K).

    Raises PackageError, "runtime", where onnxruntime refuses.
    """
    inputs = prepared(samples, manifest.preprocessing)
    try:
        outputs = model.run([manifest.output.name], {manifest.input.name: inputs})[0]
    except Exception as error:
        raise PackageError(
            "runtime", f"onnxruntime cannot run the model: {reason_of(error)}"
        ) from None
    return np.asarray(outputs)


def _compared(
    outputs: NDArray[Any], expected: NDArray[np.float32], tolerance: float
) -> Check:
    version = f"onnxruntime {_runtime().__version__}"
    if outputs.shape != expected.shape:
        raise _wrong(f"has outputs {expected.shape}, the graph {outputs.shape}")
    difference = float(np.abs(outputs - expected).max(initial=0.0))
    # Asked this way round, NaN is refused too.
    if not difference <= tolerance:
        raise _wrong(
            f"asks for outputs within {tolerance:.1e}; {version} is {difference:.1e} off"
        )
    agreeing = outputs.argmax(-1) == expected.argmax(-1)
    return Check(difference, tolerance, float(agreeing.mean()), version)


def _check_types(content: Golden, manifest: Manifest) -> None:
    dtypes = {
        "inputs": manifest.preprocessing.dtype,
        "outputs": "float32",
        "tolerance": "float32",
        "input_edges": "float32",
        "channel_edges": "float32",
        "int8_outputs": "float32",
        "int8_tolerance": "float32",
    }
    for name, array in content.arrays().items():
        expected = dtypes.get(name, "int64")
        if array.dtype.name != expected:
            raise _wrong(f"has {name} as {array.dtype.name}, not {expected}")


def _check_shapes(content: Golden, manifest: Manifest) -> None:
    inputs = content.inputs.shape
    outputs = content.outputs.shape
    is_sound = (
        _fits(inputs, manifest.input.shape)
        and _fits(outputs, manifest.output.shape)
        and 0 < inputs[0] == outputs[0]
        and content.tolerance.shape == ()
        and content.input_edges.ndim == 1
        and content.input_counts.shape == (len(content.input_edges) + 1,)
        and content.class_counts.shape == outputs[-1:]
        and content.confidence_counts.shape == (BINS,)
    )
    if content.int8_outputs is not None and content.int8_tolerance is not None:
        is_sound = (
            is_sound
            and content.int8_outputs.shape == outputs
            and content.int8_tolerance.shape == ()
        )
    if not is_sound or not _channels_fit(content):
        raise _wrong("has arrays of other shapes than the manifest's input and output")


def _channels_fit(content: Golden) -> bool:
    """Tell whether histograms of channels, if there are any, are those of the inputs."""
    axis = content.channel_axis
    edges = content.channel_edges
    counts = content.channel_counts
    if axis is None or edges is None or counts is None:
        return True
    if axis.shape != () or not 1 <= int(axis) < content.inputs.ndim:
        return False
    channels = content.inputs.shape[int(axis)]
    if not 2 <= channels <= MOST_CHANNELS:
        return False
    return edges.shape == (channels, BINS - 1) and counts.shape == (channels, BINS)


def _fits(shape: tuple[int, ...], port: tuple[int | None, ...]) -> bool:
    """Tell whether a shape is that of an input or output, where None is any length."""
    if len(shape) != len(port) or not shape:
        return False
    pairs = zip(shape, port, strict=True)
    return all(expected in (None, length) for length, expected in pairs)


def _runtime() -> Any:
    try:
        return runtime.load()
    except ImportError:
        raise UserError(
            "the golden inputs need onnxruntime: pip install onnxruntime"
        ) from None


def _wrong(what: str) -> PackageError:
    return PackageError("golden", f"{GOLDEN_FILE} {what}")
