"""The rotation of an encoder: the transforms of `rotation`, on real numbers.

A sum of real numbers has other last bits with another matrix library, and a payload's
scales show them. Encoders therefore stay with torch, whose bytes past runs have; they run
where models are trained, so it is there. On whole numbers both give the same bits, which
is how the tests hold one against the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from math import isqrt

import torch

from fedlearn.codec import rotation
from fedlearn.codec.rotation import WIDTH


def signs(seed: int | list[int]) -> torch.Tensor:
    """Return `rotation.signs` as a tensor."""
    return torch.from_numpy(rotation.signs(seed))


def transform(block: torch.Tensor) -> torch.Tensor:
    """Return the unnormalised Walsh-Hadamard transform of each row of (n, 64 r)."""
    n, size = block.shape
    rows = size // WIDTH
    with full_precision():
        across = torch.matmul(block.view(n, rows, WIDTH), _hadamard(WIDTH))
        return torch.matmul(_hadamard(rows), across).view(n, size)


def mix(block: torch.Tensor, between: torch.Tensor) -> torch.Tensor:
    """Return two transforms of each row of (n, 64 r), sign flips (64 r,) between them.

    The result is as large as after one transform; `rotation.mix` says why there are two.
    """
    # A power of two, because 64 r is a power of 4: the product is exact.
    scale = 1 / isqrt(block.shape[1])
    first = transform(block)
    first *= between * scale
    return transform(first)


@contextmanager
def full_precision() -> Iterator[None]:
    """Have torch multiply matrices in float32, whatever its user asked of it.

    Its "medium" precision and its autocast round to bfloat16 on a CPU that can: the same
    values would then have other bytes.
    """
    precision = torch.get_float32_matmul_precision()
    # The usual case, which sets nothing: that saves a tenth of the encoding's time.
    if precision == "highest" and not torch.is_autocast_enabled("cpu"):
        yield
        return
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast("cpu", enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


# Three sizes occur: 64 (a row, or the rows of 4,096 values), 16 and 8 (fewer rows).
@lru_cache(maxsize=4)
def _hadamard(size: int) -> torch.Tensor:
    """Return the matrix of the transform (size, size) as a tensor of the CPU's."""
    return torch.from_numpy(rotation.hadamard(size))
