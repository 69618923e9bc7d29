"""The golden file: inputs with the outputs that a model must give, on every board.

A package that is what its signature says may still compute something else on a device: by
another runtime, other kernels, a fault. So a device runs these inputs before it serves. The
histograms tell later whether what comes in is still like what the model was tested on.

Legend: N inputs, K classes, E edges.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedlearn.errors import PackageError, UserError, reason_of
from fedlearn.package import npz
from fedlearn.package.content import Package
from fedlearn.package.manifest import Manifest
from fedlearn.package.parts import GOLDEN_FILE, GRAPH_FILE, Preprocessing

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

# Inputs in a package: enough for every class of a small model, and small to send.
INPUTS = 16

# Bins of the inputs' values and of the confidences.
BINS = 10

# Outputs differ by this much between processors, relative to the largest output and at
# least absolutely: 17 times the most that eight models showed (5.8e-6).
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Golden:
    """The arrays of a golden file.

    inputs: (N, …) raw samples, in the data's own dtype. outputs: (N, …, K) float32.
    tolerance: (), float32, the largest difference that an output may have. input_edges:
    (E,) float32, input_counts: (E + 1,) int64, how many input values of the reference
    samples lie between them. class_counts: (K,) int64, how often each class had the highest
    score. confidence_counts: (10,) int64, of its probability, in tenths.
    """

    inputs: NDArray[Any]
    outputs: NDArray[np.float32]
    tolerance: NDArray[np.float32]
    input_edges: NDArray[np.float32]
    input_counts: NDArray[np.int64]
    class_counts: NDArray[np.int64]
    confidence_counts: NDArray[np.int64]

    def to_bytes(self) -> bytes:
        """Return the golden file: the same arrays are the same bytes."""
        return npz.dumps(
            {field.name: getattr(self, field.name) for field in fields(self)}
        )


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
    inputs: NDArray[Any], outputs: NDArray[np.float32], samples: int = INPUTS
) -> Golden:
    """Return the golden file of reference samples: the first ones, and histograms of all.

    inputs: (R, …) raw samples. outputs: (R, …, K) float32, what the model makes of them.
    """
    # Deciles, of which some may be equal: most pixels of a digit are 0.
    shares = np.linspace(0, 1, BINS + 1)[1:-1]
    values = inputs.reshape(-1).astype(np.float32)
    edges = np.unique(np.quantile(values, shares, method="nearest"))
    scores = outputs.reshape(-1, outputs.shape[-1])
    largest = float(np.abs(outputs[:samples]).max(initial=1.0))
    return Golden(
        inputs=inputs[:samples],
        outputs=outputs[:samples],
        tolerance=np.array(TOLERANCE * largest, np.float32),
        input_edges=edges,
        input_counts=input_histogram(inputs, edges),
        class_counts=np.bincount(scores.argmax(-1), minlength=scores.shape[-1]),
        confidence_counts=confidence_histogram(outputs),
    )


def input_histogram(
    inputs: NDArray[Any], edges: NDArray[np.float32]
) -> NDArray[np.int64]:
    """Return how many values of raw samples lie between edges, (E + 1,) int64."""
    values = inputs.reshape(-1).astype(np.float32)
    bins = np.searchsorted(edges, values, side="right")
    return np.bincount(bins, minlength=len(edges) + 1)


def confidence_histogram(outputs: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return how many outputs (…, K) have which highest probability, (10,) int64."""
    scores = outputs.reshape(-1, outputs.shape[-1]).astype(np.float64)
    # Of softmax: the highest score has e^0 above the sum.
    sums = np.exp(scores - scores.max(-1, keepdims=True)).sum(-1)
    bins = np.minimum((BINS / sums).astype(np.int64), BINS - 1)
    return np.bincount(bins, minlength=BINS)


def read(package: Package) -> Golden:
    """Return a package's golden file. Raises PackageError, "golden"."""
    return from_bytes(package.file(GOLDEN_FILE), package.manifest)


def from_bytes(data: bytes, manifest: Manifest) -> Golden:
    """Return the golden file that bytes hold; they have to fit the manifest.

    Raises PackageError, "golden".
    """
    arrays: dict[str, Any] = npz.loads(data, GOLDEN_FILE)
    if list(arrays) != [field.name for field in fields(Golden)]:
        raise _wrong("has other arrays than a package's")
    content = Golden(**arrays)
    _check_types(content, manifest)
    _check_shapes(content, manifest)
    tolerance = float(content.tolerance)
    if not 0 < tolerance < float("inf") or not np.isfinite(content.outputs).all():
        raise _wrong("has outputs or a tolerance that are no numbers")
    return content


def session(package: Package) -> InferenceSession:
    """Return a package's model in onnxruntime, on one thread of the processor.

    Graph and weights are the bytes that were checked, not whatever lies in the folder by
    now. Raises UserError without onnxruntime, PackageError, "runtime", where it refuses.
    """
    runtime = _runtime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    # Warnings of the graph's optimiser are of no use to a device's owner.
    options.log_severity_level = 3
    # Memory that grows by the largest batch and is never given back.
    options.enable_cpu_mem_arena = False
    arrays = package.tensors()
    values = [runtime.OrtValue.ortvalue_from_numpy(array) for array in arrays.values()]
    options.add_external_initializers(list(arrays), values)
    try:
        return runtime.InferenceSession(
            package.file(GRAPH_FILE), options, providers=["CPUExecutionProvider"]
        )
    # It has an exception class for each of its codes, and none above them.
    except Exception as error:
        raise PackageError(
            "runtime",
            f"onnxruntime {runtime.__version__} does not load the graph: "
            f"{reason_of(error)}",
        ) from None


def prepared(samples: NDArray[Any], steps: Preprocessing) -> NDArray[Any]:
    """Return raw samples as the graph takes them: cast, then divided in float32."""
    inputs = samples.astype(steps.cast)
    if steps.divide is None:
        return inputs
    return inputs / np.float32(steps.divide)


def check(package: Package) -> Check:
    """Run the golden inputs on this device's runtime, and compare the outputs.

    Raises PackageError, "golden", for an output further off than the tolerance, and as
    `read` and `session`.
    """
    runtime = _runtime()
    content = read(package)
    model = session(package)
    manifest = package.manifest
    inputs = prepared(content.inputs, manifest.preprocessing)
    try:
        outputs = model.run([manifest.output.name], {manifest.input.name: inputs})[0]
    except Exception as error:
        raise PackageError(
            "runtime", f"onnxruntime cannot run the golden inputs: {reason_of(error)}"
        ) from None
    return _compared(np.asarray(outputs), content, f"onnxruntime {runtime.__version__}")


def _compared(outputs: NDArray[Any], content: Golden, runtime: str) -> Check:
    if outputs.shape != content.outputs.shape:
        raise _wrong(f"has outputs {content.outputs.shape}, the graph {outputs.shape}")
    difference = float(np.abs(outputs - content.outputs).max(initial=0.0))
    tolerance = float(content.tolerance)
    # Asked this way round, NaN is refused too.
    if not difference <= tolerance:
        raise _wrong(
            f"asks for outputs within {tolerance:.1e}; {runtime} is {difference:.1e} off"
        )
    agreeing = outputs.argmax(-1) == content.outputs.argmax(-1)
    return Check(difference, tolerance, float(agreeing.mean()), runtime)


def _check_types(content: Golden, manifest: Manifest) -> None:
    dtypes = {
        "inputs": manifest.preprocessing.dtype,
        "outputs": "float32",
        "tolerance": "float32",
        "input_edges": "float32",
    }
    for field in fields(content):
        dtype = getattr(content, field.name).dtype.name
        expected = dtypes.get(field.name, "int64")
        if dtype != expected:
            raise _wrong(f"has {field.name} as {dtype}, not {expected}")


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
    if not is_sound:
        raise _wrong("has arrays of other shapes than the manifest's input and output")


def _fits(shape: tuple[int, ...], port: tuple[int | None, ...]) -> bool:
    """Tell whether a shape is that of an input or output, where None is any length."""
    if len(shape) != len(port) or not shape:
        return False
    pairs = zip(shape, port, strict=True)
    return all(expected in (None, length) for length, expected in pairs)


def _runtime() -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise UserError(
            "the golden inputs need onnxruntime: pip install onnxruntime"
        ) from None
    return onnxruntime


def _wrong(what: str) -> PackageError:
    return PackageError("golden", f"{GOLDEN_FILE} {what}")
