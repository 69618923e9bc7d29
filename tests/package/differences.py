"""The fuzzer of differences between releases: ``python -m tests.package.differences
[--count N] [--seed N]``.

It is that of payloads (`tests.wire.fuzz`), with what a device calls in the place of a
receiver: whatever the bytes, they are refused by a FormatError, or lead to finite weights
of the tensors' sizes in bounded memory.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from math import prod

import numpy as np

from fedlearn.arrays import Change
from fedlearn.errors import FormatError, PayloadError
from fedlearn.package import difference
from fedlearn.wire import Header, read_header
from tests.wire import fuzz
from tests.wire.corpus import Case, values

SHAPES = (
    ((16, 3, 3, 3), (16,), (64, 64), (64,), (40,), ()),
    ((20, 12), (12,)),
)
CODECS = ("cvq(1,1)", "cvq(0.5)", "eden1", "topk(0.05)+q4c", "q8", "raw32")


@dataclass(frozen=True)
class Difference(Case):
    """A difference, as a device takes it."""

    shapes: tuple[tuple[int, ...], ...] = ()

    def take(self, data: bytes) -> tuple[Header, Change]:
        """Return what a device makes of bytes. Raises FormatError, and nothing else."""
        try:
            weights = difference.apply(self.base, bytes(data), self.shapes)
        except FormatError:
            raise
        except PayloadError as error:
            raise AssertionError(f"not a FormatError: {error!r}") from error
        return read_header(data), Change(weights, np.empty(0, np.int64))


def weights(shapes, seed: int) -> np.ndarray:
    """Return (P,) float32; the vector of 40, where there is one, is all positive."""
    vector = values(sum(map(prod, shapes)), seed)
    if (40,) in shapes:
        vector[-41:] = np.abs(vector[-41:]) + 1
    return vector


def case(codec: str, shapes) -> Difference:
    """Return a sound difference."""
    base = weights(shapes, 1)
    target = weights(shapes, 2)
    payload, _ = difference.encode(base, target, shapes, codec)
    layout = difference._layout(base, shapes)
    return Difference(codec, "difference", layout, base, None, payload, shapes)


def corpus() -> list[Difference]:
    """Return every codec's difference on each of the models."""
    return [case(codec, shapes) for codec in CODECS for shapes in SHAPES]


def main() -> int:
    """Run the fuzzer; the exit code is 1 when something failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.package.differences")
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    begun = time.perf_counter()
    findings = fuzz.fuzz(arguments.seed, 0, arguments.count, corpus())
    print(fuzz.report(findings, arguments.seed, time.perf_counter() - begun))
    return 1 if findings.failures else 0


if __name__ == "__main__":
    sys.exit(main())
