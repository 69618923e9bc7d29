"""What the processors of this machine reach in float32: large products of matrices, one process with one thread per core.

That is how our workers compute. torch's own product goes through MKL on x86, which reaches 40 % of an AMD core's peak where
oneDNN reaches 85 %; on Intel's the two are level. Both are tried, and the faster one counts.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import torch

SIDE = 512
"""Of the matrices: 1 MiB each. Larger ones are no faster, and take a slow core too long."""

SECONDS = 0.2
"""How long each product is tried."""

PATIENCE_S = 20.0
"""How long a process may take to answer."""

Product = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

PRODUCTS: dict[str, Product] = {
    "oneDNN": lambda x, w: torch.ops.mkldnn._linear_pointwise(
        x, w, None, "none", [], ""
    ),
    "torch.mm": torch.mm,
}
"""Ways to multiply two matrices; one that this torch lacks is left out."""


@dataclass(frozen=True)
class Peak:
    """The best rates of float32 products seen, in GFLOP/s; a multiplication and an addition count as two."""

    one_gflops: float  # one process, one thread
    all_gflops: float  # ``processes`` of them at once
    processes: int
    cores: int  # that this process may use
    by: str  # the product that was fastest


def measure(processes: int = 0) -> Peak | None:
    """Return the peak of so many processes, 0 or more than there are cores = one per core; None where it cannot be had.

    Takes about 0.7 s. The best single product counts, so short disturbances do not; a machine that is busy all the time shows
    less than it can. Nothing is computed in this process.
    """
    cores = len(os.sched_getaffinity(0))
    count = min(processes or cores, cores)
    try:
        alone = _rates(1, list(PRODUCTS))[0]
        by = max(alone, key=lambda name: alone[name])
        together = [alone] if count == 1 else _rates(count, [by])
        return Peak(alone[by], sum(rates[by] for rates in together), count, cores, by)
    except (
        OSError,
        EOFError,
        KeyError,
        ValueError,
    ):  # no process or memory to be had, or it was killed, or nothing runs
        return None


def _rates(count: int, names: Sequence[str]) -> list[dict[str, float]]:
    """Return what each of ``count`` processes reaches at the same time, by product."""
    with _forked(count, names) as pipes:
        for pipe in pipes:
            _receive(pipe)  # it is ready
        for pipe in pipes:
            pipe.send(True)
        return [_receive(pipe) for pipe in pipes]


def _receive(pipe: Connection) -> dict[str, float]:
    if not pipe.poll(PATIENCE_S):
        raise EOFError
    found: dict[str, float] = pipe.recv()
    return found


@contextlib.contextmanager
def _forked(count: int, names: Sequence[str]) -> Iterator[list[Connection]]:
    """Give the pipes of ``count`` processes, which are ended afterwards."""
    context = multiprocessing.get_context(
        "fork"
    )  # a new interpreter would take longer to import torch than to measure
    made: list[tuple[BaseProcess, Connection]] = []
    try:
        for _ in range(count):
            ours, theirs = context.Pipe()
            others = [ours, *(pipe for _, pipe in made)]
            process: BaseProcess = context.Process(
                target=_work, args=(theirs, others, names), daemon=True
            )
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore", DeprecationWarning
                )  # Python 3.12+ warns of forking beside threads
                process.start()
            theirs.close()
            made.append((process, ours))
        yield [pipe for _, pipe in made]
    finally:
        for process, pipe in made:
            pipe.close()
            process.kill()
            process.join()


def _work(
    pipe: Connection, inherited: Sequence[Connection], names: Sequence[str]
) -> None:
    for other in inherited:
        other.close()  # or a dead parent's pipes would stay open in its children, and they would wait for ever
    torch.set_num_threads(1)
    x, w = torch.ones(SIDE, SIDE), torch.ones(SIDE, SIDE)
    with torch.inference_mode(), contextlib.suppress(EOFError, OSError):
        pipe.send({})
        pipe.recv()
        pipe.send(
            {name: rate for name in names if (rate := _rate(PRODUCTS[name], x, w))}
        )


def _rate(product: Product, x: torch.Tensor, w: torch.Tensor) -> float:
    """Return the best rate of a product in GFLOP/s; 0: this torch cannot do it."""
    try:
        product(x, w)  # the first one sets things up
    except (AttributeError, RuntimeError, NotImplementedError):
        return 0.0
    best, now = float("inf"), time.perf_counter()
    end = now + SECONDS
    while now < end:
        begun = now
        product(x, w)
        now = time.perf_counter()
        best = min(best, now - begun)
    return 2e-9 * SIDE**3 / best
