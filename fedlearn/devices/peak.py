"""What the processors of this machine reach in float32: large products of matrices.

Measured in processes of one thread, one per core, because our workers compute that way. torch's
own product goes through MKL on x86, which reaches 40 % of an AMD core's peak where oneDNN reaches
85 %; on Intel's the two are level. Both are tried, and the faster one counts.
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

# Rows and columns of the matrices, 1 MiB each. Larger ones are no faster, and take a slow
# core too long.
SIDE = 512

# How long each product is tried.
SECONDS = 0.2

# How long a process may take to answer.
PATIENCE_S = 20.0

Product = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def _onednn(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Multiply by oneDNN, through the operator that torch uses for fused linear layers."""
    product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
        x, weight, None, "none", [], ""
    )
    return product


# Ways to multiply two matrices; one that this torch lacks is left out.
PRODUCTS: dict[str, Product] = {"oneDNN": _onednn, "torch.mm": torch.mm}


@dataclass(frozen=True)
class Peak:
    """The best rates of float32 products, in GFLOP/s; a multiplication and an addition are two."""

    # One process of one thread.
    one_gflops: float
    # So many processes at once.
    all_gflops: float
    processes: int
    # Cores that this process may use.
    cores: int
    # The name of the fastest product.
    by: str


def measure(processes: int = 0) -> Peak | None:
    """Return the peak of so many processes; None where it cannot be measured.

    processes: 0, or more than there are cores, means one per core.
    Takes about 0.7 s. The best single product counts, so short disturbances do not; a machine
    that is busy all the time shows less than it can. Nothing is computed in this process.
    """
    cores = len(os.sched_getaffinity(0))
    count = min(processes or cores, cores)
    try:
        alone = _rates(1, list(PRODUCTS))[0]
        best = max(alone, key=lambda name: alone[name])
        together = [alone]
        if count > 1:
            together = _rates(count, [best])
        total = sum(rates[best] for rates in together)
        return Peak(alone[best], total, count, cores, best)
    # No process or memory is to be had, one was killed, or no product runs.
    except (OSError, EOFError, KeyError, ValueError):
        return None


def _rates(count: int, names: Sequence[str]) -> list[dict[str, float]]:
    """Return the GFLOP/s of each of ``count`` processes at the same time, by product.

    Raises EOFError when a process ends or does not answer.
    """
    with _forked(count, names) as pipes:
        # All begin together, once each has said that it is ready.
        for pipe in pipes:
            _receive(pipe)
        for pipe in pipes:
            pipe.send(True)
        return [_receive(pipe) for pipe in pipes]


def _receive(pipe: Connection) -> dict[str, float]:
    """Return what a process sends; raises EOFError when it sends nothing in time."""
    if not pipe.poll(PATIENCE_S):
        raise EOFError
    rates: dict[str, float] = pipe.recv()
    return rates


@contextlib.contextmanager
def _forked(count: int, names: Sequence[str]) -> Iterator[list[Connection]]:
    """Give the pipes of ``count`` processes, which are ended afterwards."""
    processes: list[BaseProcess] = []
    pipes: list[Connection] = []
    try:
        for _ in range(count):
            process, pipe = _fork(pipes, names)
            processes.append(process)
            pipes.append(pipe)
        yield pipes
    finally:
        for process, pipe in zip(processes, pipes, strict=True):
            pipe.close()
            process.kill()
            process.join()


def _fork(
    pipes: Sequence[Connection], names: Sequence[str]
) -> tuple[BaseProcess, Connection]:
    """Start one process, and return it and our end of its pipe; pipes: to those before it."""
    # A new interpreter would take longer to import torch than to measure.
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process: BaseProcess = context.Process(
        target=_work, args=(theirs, [ours, *pipes], names), daemon=True
    )
    with warnings.catch_warnings():
        # Python 3.12 and later warn of forking beside threads.
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    theirs.close()
    return process, ours


def _work(
    pipe: Connection, inherited: Sequence[Connection], names: Sequence[str]
) -> None:
    """Say ready, wait for the start, and send the rates of the products that run."""
    # Otherwise a dead parent's pipes would stay open in its children, which would wait for ever.
    for parent_end in inherited:
        parent_end.close()
    torch.set_num_threads(1)
    x = torch.ones(SIDE, SIDE)
    weight = torch.ones(SIDE, SIDE)
    with torch.inference_mode(), contextlib.suppress(EOFError, OSError):
        pipe.send({})
        pipe.recv()
        rates = {name: _rate(PRODUCTS[name], x, weight) for name in names}
        pipe.send({name: rate for name, rate in rates.items() if rate})


def _rate(product: Product, x: torch.Tensor, weight: torch.Tensor) -> float:
    """Return the best rate of a product in GFLOP/s; 0: this torch cannot do it."""
    try:
        # The first call sets things up and is not timed.
        product(x, weight)
    except (AttributeError, RuntimeError, NotImplementedError):
        return 0.0
    best_s = float("inf")
    now = time.perf_counter()
    end = now + SECONDS
    while now < end:
        begun = now
        product(x, weight)
        now = time.perf_counter()
        best_s = min(best_s, now - begun)
    # A product of n × n matrices is n³ multiplications and n³ additions.
    return 2e-9 * SIDE**3 / best_s
