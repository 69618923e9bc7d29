"""The small package with functions around its model, and what they make of its samples."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from fedlearn.package import content, golden
from fedlearn.package.content import Package
from fedlearn.package.functions import POST, PRE, Function
from fedlearn.package.parts import GOLDEN_FILE, Port
from fedlearn.release.functions import FunctionWish, with_functions
from tests.package import function_graphs as graphs
from tests.package import small

# As clients send them: each number of a sample twice.
PAIRS = np.repeat(small.SAMPLES, 2, axis=1)


def wish(name, role, data, time_ms=graphs.PATIENT_MS, memory_mb=64):
    return FunctionWish(name, role, data, time_ms, memory_mb)


WISHES = (
    wish("single", PRE, graphs.doubled()),
    wish("shares", POST, graphs.shares()),
    wish("best", POST, graphs.best()),
)


def answer(**limits) -> Function:
    """Return what a manifest says of a function of `answer` (n, 3) of `scores`."""
    port = Port("scores", (None, 3), "float32")
    outputs = (Port("answer", (None, 3), "float32"),)
    return Function(
        "f", POST, port, outputs, **{"time_ms": graphs.PATIENT_MS, **limits}
    )


def made(wishes=WISHES, samples=PAIRS, **changes):
    """Return the manifest and the files of the small package with functions."""
    files = small.files()
    manifest = small.manifest(files, **changes)
    answers = golden.from_bytes(files[GOLDEN_FILE], manifest)
    manifest, more = with_functions(manifest, wishes, answers, samples)
    return manifest, {**files, **more}


def written(folder: Path, wishes=WISHES, samples=PAIRS, **changes) -> Package:
    """Write the package to a new folder."""
    manifest, files = made(wishes, samples, **changes)
    return content.write(folder, manifest, files)


def rewritten(folder: Path, file: str, data: bytes, **of_function) -> Package:
    """Write it with another file of a function, as if its maker had listed it so."""
    manifest, files = made()
    files[file] = data
    listed = {**manifest.files, file: content.listed(data)}
    functions = manifest.functions
    if of_function:
        functions = (replace(functions[0], **of_function), *functions[1:])
    manifest = replace(manifest, files=listed, functions=functions)
    return content.write(folder, manifest, files)


def expected(samples):
    """Return the highest share and its class, by hand: (N, 1) each."""
    scores = samples.astype(np.float32) / 255 @ small.W + small.B
    powers = np.exp(scores - scores.max(1, keepdims=True))
    shares = powers / powers.sum(1, keepdims=True)
    return shares.max(1, keepdims=True), shares.argmax(1)[:, None]
