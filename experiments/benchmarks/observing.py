"""What it costs fedlearn infer to observe its answers: CPU time of one look, by shape.

``python -m fedlearn.experiments.benchmarks.observing`` prints a row for each shape. A server
looks at 50 samples a second at most, whatever is asked.
"""

from __future__ import annotations

import statistics
import time

import numpy as np

from fedlearn.clients.infer.drift import DriftReference, Window
from fedlearn.clients.infer.observer import RATE
from fedlearn.package import histograms

# Shapes of one sample, the axis of its channels (None: one histogram of all), and classes.
SHAPES = (
    ("10 sensors", (10,), 1, 4),
    ("series of 64 x 6", (64, 6), 2, 7),
    ("digit, 28 x 28", (1, 28, 28), None, 10),
    ("picture, 3 x 224 x 224", (3, 224, 224), 1, 1000),
)

_LOOKS = 300


def look_s(shape: tuple[int, ...], axis: int | None, classes: int, rows: int) -> float:
    """Return the median CPU seconds of one look at so many samples."""
    draw = np.random.default_rng(0)
    channels = 1 if axis is None else (1, *shape)[axis]
    bins = histograms.BINS
    edges = np.sort(draw.normal(size=(channels, bins - 1)), 1).astype(np.float32)
    counts = np.full((channels, bins), 100, np.int64)
    reference = DriftReference(
        edges=edges,
        inputs=counts,
        axis=axis,
        classes=np.full(classes, 100, np.int64),
        confidences=np.full(bins, 100, np.int64),
    )
    window = Window(reference)
    inputs = draw.normal(size=(rows, *shape)).astype(np.float32)
    outputs = draw.normal(size=(rows, classes)).astype(np.float32)
    durations = []
    for _ in range(_LOOKS):
        begin = time.thread_time()
        window.add(inputs, outputs)
        durations.append(time.thread_time() - begin)
    return statistics.median(durations)


def main() -> None:
    """Print the table."""
    print(f"{'sample':<24}{'µs of one':>12}{'of 16 at once':>16}{'% of a core':>14}")
    for name, shape, axis, classes in SHAPES:
        single_s = look_s(shape, axis, classes, 1)
        many_s = look_s(shape, axis, classes, 16)
        share = 100 * RATE * single_s
        print(f"{name:<24}{1e6 * single_s:>12.0f}{1e6 * many_s:>16.0f}{share:>14.2f}")


if __name__ == "__main__":
    main()
