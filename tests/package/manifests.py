"""The mutation fuzzer of manifests: ``python -m tests.package.manifests [--count N] [--seed N]``.

Sound manifests are damaged, as bytes, as JSON text and field by field, and then read. What
comes of each is the manifest of just these bytes, or a `PackageError` with a name. Nothing
else may be raised, and nothing may take seconds or stay in memory.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import random
import resource
import sys
import time
from collections import Counter
from typing import Any

from fedlearn.errors import PackageError
from fedlearn.package import canonical
from fedlearn.package.manifest import from_bytes
from fedlearn.package.parts import Delta, delta_file
from tests.package import small

LONG_S = 10.0
"""Seconds of processor time that one manifest may take."""

# What stands in the place of a field: of other types, at limits and beyond them, and of the
# forms that have led readers astray.
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**53 - 1, 2**53, 2**64, -(2**63), 10**300),
    *(0.5, -0.0, 1.0, 1e308, 5e-324, "", "x", "0" * 64, "A" * 64, "a" * 10_000),
    *("../x", "/etc/passwd", "a\\b", "a/../b", "\x00", "\x1b[2J", "é", "\ud800"),
    *("2030-02-30T00:00:00Z", "2030-01-01T00:00:00+00:00", "graph.onnx", "weights.bin"),
    *(
        [],
        {},
        [[]],
        [0] * 9,
        [2**31],
        [-1],
        [None],
        [2**31 - 1] * 8,
        {"": {}},
        {"a": 1},
    ),
    *(
        [[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]],
        [0] * 300,
        {"sha256": "0" * 64, "bytes": 4},
    ),
)
PIECES = (
    *(b"\x00", b"\xff", b"[" * 3000, b"{" * 200, b'"', b"\\", b"\\u0000", b"1e999"),
    *(
        b"NaN",
        b"Infinity",
        b"-0",
        b"1.0",
        b" ",
        b"\n",
        b",",
        b"9" * 5000,
        b"\xed\xa0\x80",
    ),
)


def sound() -> list[bytes]:
    """Return manifests of every kind that there is."""
    deltas = []
    for digit in "05a":
        base = digit * 64
        deltas.append(Delta(base, delta_file(base), "c" * 64, 17))
    listed = dict(small.manifest().files)
    listed["int8.onnx"] = listed["graph.onnx"]
    recipe = {"folds": [], "tensors": [{"name": "w", "source": "w"}]}
    key = "-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----\n"
    return [
        small.manifest().to_bytes(),
        small.manifest(deltas=tuple(deltas), expires="2030-01-01T00:00:00Z").to_bytes(),
        small.manifest(files=listed, int8=recipe, rollback=7, keys=(key,)).to_bytes(),
    ]


def mutated(draw: random.Random, manifests: list[bytes]) -> bytes:
    """Return a damaged manifest."""
    data = draw.choice(manifests)
    way = draw.random()
    if way < 0.4:
        return _bytes(draw, data, draw.choice(manifests))
    value = json.loads(data)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        _change(draw, value)
    if way < 0.9:
        return _dumped(value)
    return _bytes(draw, _dumped(value), data)


def _bytes(draw: random.Random, data: bytes, other: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 4))):
        start = draw.randrange(len(out) + 1)
        way = draw.randrange(6)
        if way < 2 and start < len(out):
            out[start] ^= 1 << draw.randrange(8)
        elif way == 2:
            del out[start : start + draw.choice((1, 2, 40))]
        elif way == 3:
            out[start:start] = draw.choice(PIECES)
        elif way == 4:
            begin = draw.randrange(len(other))
            out[start : start + 20] = other[begin : begin + draw.choice((1, 20, 400))]
        elif draw.random() < 0.2:
            del out[start:]
    return bytes(out)


def _places(value):
    """Yield every container of a value, and the keys or positions in it."""
    if isinstance(value, dict):
        for key in list(value):
            yield value, key
            yield from _places(value[key])
    elif isinstance(value, list):
        for index in range(len(value)):
            yield value, index
            yield from _places(value[index])


def _change(draw: random.Random, value) -> None:
    places = list(_places(value))
    container, key = draw.choice(places)
    other, other_key = draw.choice(places)
    way = draw.randrange(7)
    if way < 3:
        container[key] = copy.deepcopy(draw.choice(VALUES))
    elif way == 3:
        container[key] = copy.deepcopy(other[other_key])
    elif way == 4:
        del container[key]
    elif isinstance(container, dict):
        container[draw.choice(("", "extra", "../x", "sha256"))] = copy.deepcopy(
            draw.choice(VALUES)
        )
    else:
        container.append(copy.deepcopy(container[key]))


def _dumped(value) -> bytes:
    """Return canonical bytes of a value, or nearly so: half of a surrogate has none."""
    try:
        return canonical.dumps(value)
    except ValueError:
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def verdict(data: bytes) -> str:
    """Return the name of a refusal; "sound" for a manifest of just these bytes."""
    try:
        manifest = from_bytes(data)
    except PackageError as error:
        refusal = error
    else:
        assert manifest.to_bytes() == data
        return "sound"
    text = str(refusal)
    assert refusal.name and text.isprintable() and len(text) < 1000, text[:2000]
    return refusal.name


def fuzz(count: int, seed: int) -> Counter[str]:
    """Read so many damaged manifests; return how often each refusal was."""
    draw = random.Random(seed)
    manifests = sound()
    verdicts: Counter[str] = Counter()
    for number in range(count):
        data = mutated(draw, manifests)
        begin = time.process_time()
        try:
            verdicts[verdict(data)] += 1
        except BaseException:
            print(f"number {number} of seed {seed}: {data[:3000]!r}", file=sys.stderr)
            raise
        if time.process_time() - begin > LONG_S:
            raise AssertionError(f"number {number} of seed {seed} takes long")
    return verdicts


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    fuzz(1000, arguments.seed + 1)
    gc.collect()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.monotonic()
    verdicts = fuzz(arguments.count, arguments.seed)
    grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"{arguments.count} manifests in {time.monotonic() - begin:.0f} s")
    for name, number in verdicts.most_common():
        print(f"  {name:<10}{number}")
    print(f"memory grew by {grown_mb:.1f} MB")


if __name__ == "__main__":
    main()
