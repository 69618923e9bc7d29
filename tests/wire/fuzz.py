"""The mutation fuzzer of payloads: ``python -m tests.wire.fuzz [--count N] [--seed N]
[--codec TEXT]``.

Real payloads of every codec and kind are damaged, and mostly given a sound checksum
again. What comes of each must be a PayloadError, or values of exactly the model's sizes,
all finite. Nothing else may be raised, warned of or allocated: the address space is
limited, and the memory of a sample of decodes is traced.

A mutation depends on the seed and its number alone: ``--seed S --first I --count 1`` repeats it.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import re
import resource
import sys
import time
import traceback
import tracemalloc
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from fedlearn.arrays import Change, Sparse
from fedlearn.errors import PayloadError
from tests.wire.corpus import Case, cases
from tests.wire.mutate import MUTATIONS, Mutation, bomb_streams

ROOM = 256 * 2**20
"""Bytes of address space that the whole run may add: a bomb of 10 GB cannot go off unnoticed."""

MODELS = 24
"""Times the model's bytes that one decode may hold, whatever codec a payload names: what
topk(1)+raw32+grid takes, and a little.

Few codecs come near: test_fuzz.py has what each holds. What torch holds is not traced: a
decoder has it work on half a megabyte at a time, and `ROOM` bounds it.
"""

ALLOWED = 2**20
"""Bytes that one decode may hold beyond those of models, and twice the payload."""

TRACED = 50
"""Every so many decodes, and every bomb, are run a second time with their memory traced,
and compared.
"""


def check(case: Case, data: bytes) -> Change | None:
    """Return what bytes decode to, None when they are refused; raises anything else where
    the decoder is wrong.
    """
    try:
        _, change = case.take(data)
    except PayloadError:
        return None
    layout, floats = case.layout, change.floats
    found = change.values
    assert found.dtype == np.float32 and np.isfinite(found).all(), (
        "values that are not finite float32"
    )
    assert change.integers.dtype == np.int64 and change.integers.shape == (
        layout.integers,
    ), "other integers than the model's"
    if isinstance(floats, Sparse):
        at = floats.indices
        assert (
            floats.size == layout.floats
            and at.shape == found.shape
            and at.dtype == np.int64
        ), "places of another model"
        assert not at.size or (
            at[0] >= 0 and at[-1] < layout.floats and (np.diff(at) > 0).all()
        ), "places that do not increase in the model"
    else:
        assert floats.shape == (layout.floats,), "other floats than the model's"
    return change


def check_memory(case: Case, data: bytes, models: float = MODELS) -> None:
    """Decode twice, the second time traced; raises AssertionError for another result or
    too much memory.

    models: how many times the model's bytes it may hold beside `ALLOWED` and twice the payload.
    """
    first = check(case, data)
    tracemalloc.start()
    try:
        again = check(case, data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    allowed = models * case.layout.raw_bytes + 2 * len(data) + ALLOWED
    assert peak <= allowed, f"{peak:,} bytes held where {allowed:,.0f} are allowed"
    assert (first is None) == (again is None), "refused once, and taken once"
    if first is not None and again is not None:
        assert first.dense().floats.tobytes() == again.dense().floats.tobytes(), (
            "two results of the same bytes"
        )


@dataclass
class Findings:
    """What a run found: one failure of each sort, with the shortest bytes; and the
    slowest decodes, in seconds.
    """

    failures: dict[str, tuple[int, str, bytes, str]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    slowest: dict[str, list[tuple[float, str, Case, bytes]]] = field(
        default_factory=lambda: {"bombs": [], "others": []}
    )
    taken: int = 0
    tried: int = 0

    def failed(self, number: int, what: str, data: bytes, error: BaseException) -> None:
        """Note a failure."""
        last = traceback.extract_tb(error.__traceback__)[-1]
        ours = [
            f
            for f in traceback.extract_tb(error.__traceback__)
            if "fedlearn" in f.filename
        ] or [last]
        told = (
            re.sub(r"[\d,]+", "#", str(error))
            if isinstance(error, AssertionError)
            else ""
        )
        place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"
        sort = f"{type(error).__name__} at {place} {told}".strip()
        self.counts[sort] = self.counts.get(sort, 0) + 1
        if sort not in self.failures or len(data) < len(self.failures[sort][2]):
            self.failures[sort] = (
                number,
                what,
                data,
                f"{type(error).__name__}: {error}",
            )

    def timed(self, seconds: float, what: str, case: Case, data: bytes) -> None:
        """Note how long a decode took, if it is among the slowest so far."""
        sort = "bombs" if what.startswith("bombs") else "others"
        if len(self.slowest[sort]) < 12 or seconds > self.slowest[sort][-1][0]:
            self.slowest[sort] = sorted(
                [*self.slowest[sort], (seconds, what, case, data)],
                key=lambda one: -one[0],
            )[:12]


def mutated(
    seed: int,
    number: int,
    corpus: Sequence[Case],
    ways: Sequence[tuple[Mutation, int]] = MUTATIONS,
) -> tuple[Case, str, bytes]:
    """Return mutation ``number`` of a seed: the case, what was done, and the bytes."""
    draw = random.Random(f"{seed}/{number}")
    case = draw.choice(corpus)
    how = draw.choices([way for way, _ in ways], [weight for _, weight in ways])[0]
    return case, f"{how.__name__} of {case.codec} {case.kind}", how(draw, case, corpus)


def fuzz(
    seed: int,
    first: int,
    count: int,
    corpus: Sequence[Case],
    traced: int = TRACED,
    ways: Sequence[tuple[Mutation, int]] = MUTATIONS,
) -> Findings:
    """Return what ``count`` mutations from number ``first`` on find."""
    found = Findings()
    with warnings.catch_warnings(), limited(ROOM):
        warnings.simplefilter("error")
        for number in range(first, first + count):
            case, what, data = mutated(seed, number, corpus, ways)
            try:
                begun = time.perf_counter()
                taken = check(case, data)
                found.timed(time.perf_counter() - begun, what, case, data)
                found.taken += taken is not None
                if number % traced == 0 or what.startswith("bombs"):
                    check_memory(case, data)
            except Exception as error:
                found.failed(number, what, data, error)
            found.tried += 1
    return found


@contextlib.contextmanager
def limited(room: int) -> Iterator[None]:
    """Let the process's address space grow by no more than ``room`` bytes."""
    now = (
        int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        if Path("/proc/self/statm").exists()
        else None
    )
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if now is not None:
        resource.setrlimit(resource.RLIMIT_AS, (now + room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def report(found: Findings, seed: int, seconds: float) -> str:
    """Return the findings in words, with what is needed to repeat each failure."""
    lines = [
        f"{found.tried:,} payloads in {seconds:.0f} s "
        f"({found.tried / seconds:,.0f} a second), "
        f"{found.taken:,} of them still sound"
    ]
    for sort, slowest in found.slowest.items():
        if timed := [
            (min(_once(case, data) for _ in range(7)), what, data)
            for _, what, case, data in slowest
        ]:
            best, what, data = max(
                timed, key=lambda one: one[0]
            )  # other work on the machine makes any decode slow once
            lines.append(
                f"slowest of {sort}: {1e3 * best:.2f} ms, {what}, {len(data):,} bytes"
            )
    for sort, (number, what, data, told) in found.failures.items():
        lines.append(
            f"FAILED {found.counts[sort]} times: {sort}\n  {told[:500]}\n  {what}; "
            f"again: --seed {seed} --first {number} --count 1"
        )
        lines.append(
            f"  {data.hex() if len(data) < 3000 else f'{len(data):,} bytes, too long to print'}"
        )
    return "\n".join(lines)


def _once(case: Case, data: bytes) -> float:
    begun = time.perf_counter()
    with contextlib.suppress(Exception):
        case.take(data)
    return time.perf_counter() - begun


def main() -> int:
    """Run the fuzzer; the exit code is 1 when something failed."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.wire.fuzz", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "--count", type=int, default=1_000_000, help="mutations (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--first",
        type=int,
        default=0,
        help="number of the first mutation (%(default)s)",
    )
    parser.add_argument(
        "--codec",
        help="mutate payloads of this codec only; a failure is repeated with the same --codec",
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    corpus = [one for one in cases() if arguments.codec in (None, one.codec)]
    if not corpus:
        parser.error(f"no payloads of the codec '{arguments.codec}'")
    print(
        f"{len(corpus)} payloads of {len({one.codec for one in corpus})} codecs: "
        f"{', '.join(dict.fromkeys(one.codec for one in corpus))}",
        flush=True,
    )
    bomb_streams()
    begun = time.perf_counter()
    found = fuzz(arguments.seed, arguments.first, arguments.count, corpus)
    print(report(found, arguments.seed, time.perf_counter() - begun))
    return 1 if found.failures else 0


if __name__ == "__main__":
    sys.exit(main())
