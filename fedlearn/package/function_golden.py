"""What a package's functions must give, on every board: `functions/golden.npz`.

Beside the golden file of the model, which is that of the model alone. Each side of the model
has its own samples, so that roundings of one do not add up to those of the next:

    inputs, prepared    what clients send, and what the model gets of it
    output_0, …         what answers are, of the golden outputs of the model

Legend: N samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlearn.errors import PackageError
from fedlearn.package import golden, npz
from fedlearn.package.content import Package
from fedlearn.package.function_run import FunctionError, Functions, Step, load
from fedlearn.package.functions import ROWS
from fedlearn.package.golden import RELATIVE_TOLERANCE, TOLERANCE
from fedlearn.package.manifest import Manifest
from fedlearn.package.parts import FUNCTIONS_GOLDEN_FILE, Port
from fedlearn.system import malloc

Array = NDArray[Any]
Arrays = Mapping[str, Array]

INPUTS = "inputs"
PREPARED = "prepared"

# How far whole numbers may be off. Before the model they are mostly rounded pixels, where
# processors differ by one. After it they are classes.
_ROUNDED = 1
_EXACT = 0


@dataclass(frozen=True)
class FunctionCheck:
    """What this device made of the functions' samples.

    difference: the largest of any value. names: of the functions, in their order.
    """

    difference: float
    names: tuple[str, ...]


def arrays(functions: Functions, samples: Array | None, outputs: Array) -> Arrays:
    """Return the golden arrays of functions, as this machine computes them.

    samples: (N, …) as clients send them; None where no function is before the model. outputs:
    (N, …) of the model. Raises PackageError, "function", for functions that exceed a limit,
    give what is no number, or mix samples.
    """
    values = {}
    if functions.before and samples is not None:
        values[INPUTS] = samples
        values[PREPARED] = _through(functions.before, samples, _ROUNDED)[0]
    if functions.after:
        answers = _through(functions.after, outputs, _EXACT)
        for place, output in enumerate(answers):
            values[output_name(place)] = output
    return values


def output_name(place: int) -> str:
    """Return the name of the answers' output of a place."""
    return f"output_{place}"


def read(package: Package) -> Arrays:
    """Return the golden arrays of a package's functions. Raises PackageError, "function"."""
    data = package.file(FUNCTIONS_GOLDEN_FILE)
    values = npz.loads(data, FUNCTIONS_GOLDEN_FILE)
    manifest = package.manifest
    ports = _ports(manifest)
    if list(values) != list(ports):
        raise _wrong(f"{FUNCTIONS_GOLDEN_FILE} has other arrays than the functions'")
    for name, port in ports.items():
        array = values[name]
        fits = array.shape[1:] == port.shape[1:] and array.dtype.name == port.dtype
        if not fits or not len(array) or not np.isfinite(array).all():
            raise _wrong(
                f"{FUNCTIONS_GOLDEN_FILE} has {name} that the functions do not"
            )
    return values


def check(package: Package) -> FunctionCheck | None:
    """Run the functions on their samples on this device; None: the package has none.

    They run once with one sample and once with as many as a run may have, so a board on which
    they are too slow, or need too much memory, is found here. Raises PackageError, "function",
    and as `fedlearn.package.function_run.load`.
    """
    functions = load(package)
    if functions is None:
        return None
    values = read(package)
    difference = 0.0
    if functions.before:
        expected = [values[PREPARED]]
        actual = _through(functions.before, values[INPUTS], _ROUNDED)
        difference = _compared(actual, expected, _ROUNDED)
    if functions.after:
        expected = [
            array for name, array in values.items() if name.startswith("output")
        ]
        outputs = golden.read(package).outputs
        actual = _through(functions.after, outputs, _EXACT)
        difference = max(difference, _compared(actual, expected, _EXACT))
    names = [step.function.name for step in (*functions.before, *functions.after)]
    malloc.give_back()
    return FunctionCheck(difference, tuple(names))


def _ports(manifest: Manifest) -> dict[str, Port]:
    """Return what each array has to be, in their order."""
    before = [function for function in manifest.functions if function.role == "pre"]
    after = [function for function in manifest.functions if function.role == "post"]
    ports = {}
    if before:
        ports[INPUTS] = before[0].input
        ports[PREPARED] = before[-1].outputs[0]
    if after:
        for place, port in enumerate(after[-1].outputs):
            ports[output_name(place)] = port
    return ports


def _through(steps: tuple[Step, ...], samples: Array, whole: int) -> list[Array]:
    """Return what functions make of samples (N, …): alone, and as many as a run may have.

    whole: how far whole numbers of the two may be apart. Raises PackageError where a limit is
    exceeded, or where the two differ.
    """
    # The same ones again and again: what is known of them holds for all.
    full = np.resize(samples, (max(ROWS, len(samples)), *samples.shape[1:]))
    outputs = [full]
    for step in steps:
        inputs = outputs[0]
        try:
            # Alone first: the first run of a session allocates, and is the slowest.
            alone = [step.run(inputs[row : row + 1]) for row in range(len(samples))]
            outputs = step.run(inputs)
        except FunctionError as error:
            raise _wrong(str(error)) from None
        for place, output in enumerate(outputs):
            if not np.isfinite(output).all():
                raise _wrong(
                    f"function '{step.function.name}' gives values that are no numbers"
                )
            single = np.concatenate([values[place] for values in alone])
            distance = _distance(output[: len(samples)], single)
            if not distance <= _tolerance(single, whole):
                raise _wrong(
                    f"function '{step.function.name}' gives a sample another answer with "
                    "others than alone"
                )
    return [output[: len(samples)] for output in outputs]


def _compared(actual: list[Array], expected: list[Array], whole: int) -> float:
    """Return how far arrays are from those expected. Raises PackageError for too far."""
    largest = 0.0
    for array, golden_array in zip(actual, expected, strict=True):
        if len(array) != len(golden_array):
            raise _wrong(
                f"{FUNCTIONS_GOLDEN_FILE} has {len(golden_array)} values for {len(array)} samples"
            )
        distance = _distance(array, golden_array)
        tolerance = _tolerance(golden_array, whole)
        # Asked this way round, NaN is refused too.
        if not distance <= tolerance:
            raise _wrong(
                f"{FUNCTIONS_GOLDEN_FILE} asks for values within {tolerance:.1e}; the "
                f"functions here are {distance:.1e} off"
            )
        largest = max(largest, distance)
    return largest


def _distance(first: Array, second: Array) -> float:
    # Wide enough that no whole number wraps around.
    difference = first.astype(np.float64) - second.astype(np.float64)
    return float(np.abs(difference).max(initial=0.0))


def _tolerance(expected: Array, whole: int) -> float:
    """Return how far values may be off; whole: that of whole numbers."""
    if expected.dtype.kind in "iu":
        return float(whole)
    largest = float(np.abs(expected).max(initial=0.0))
    return max(TOLERANCE, RELATIVE_TOLERANCE * largest)


def _wrong(what: str) -> PackageError:
    return PackageError("function", what)
