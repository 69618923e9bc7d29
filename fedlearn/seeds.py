"""One seed, many independent streams.

Every random number of a run is a function of (seed, purpose, numbers such as round and
client), never of a process, a thread or an order. Global generators are left as they
were; `isolated` seeds them for a user's own code.
"""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def derive(seed: int, purpose: str, *numbers: int) -> int:
    """Return a 63-bit seed for one purpose, as ``derive(0, "batches", round, client)``.

    Distinct arguments give independent seeds: the value is the head of a SHA-256 over
    all of them.
    """
    text = "/".join([str(seed), purpose, *map(str, numbers)])
    digest = hashlib.sha256(text.encode()).digest()
    # 63 bits, which no generator takes for a negative number.
    return int.from_bytes(digest[:8], "little") >> 1


def generator(seed: int, purpose: str, *numbers: int) -> np.random.Generator:
    """Return a numpy generator (PCG64) for one purpose; see `derive`."""
    return np.random.Generator(np.random.PCG64(derive(seed, purpose, *numbers)))


@contextmanager
def isolated(seed: int) -> Iterator[None]:
    """Seed Python's, numpy's and torch's global generators for code that is not ours.

    They are put back as they were afterwards. torch is seeded where it is loaded: its
    first draws are the same in every process.
    """
    python_state = random.getstate()
    numpy_state = np.random.get_state()
    with _torch_apart(seed):
        random.seed(seed)
        # numpy's old generator takes 32 bits.
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


@contextmanager
def _torch_apart(seed: int) -> Iterator[None]:
    """Seed torch's global generators, and put them back; nothing where torch is not loaded."""
    # Loading it takes a second, for modules that may not use it.
    if "torch" not in sys.modules:
        yield
        return
    import torch

    with torch.random.fork_rng():
        _seed_torch(seed)
        yield


def _seed_torch(seed: int) -> None:
    """Seed torch's global generators: the GPUs' only where there is a GPU.

    `torch.manual_seed` also formats a stack trace for each kind of GPU that is not in
    use yet: 0.1 to 0.2 ms for every client.
    """
    import torch

    has_gpu = (
        torch.cuda.is_available()
        or torch.backends.mps.is_available()
        or torch.xpu.is_available()
    )
    if has_gpu:
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


def torch_generator(seed: int, purpose: str, *numbers: int) -> torch.Generator:
    """Return a torch generator on the CPU for one purpose; see `derive`."""
    import torch

    return torch.Generator().manual_seed(derive(seed, purpose, *numbers))
