"""CRC-32 as zlib has it, by the fastest code at hand.

The standard library's takes 1.4 ms for the 6.65 MB of McMahan's CNN on the machine of
docs/performance.md, ISA-L's (the package ``isal``, which the extra ``sim`` brings)
0.23 ms. The values are the same.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable
from typing import Any

# From here on ISA-L's code is worth its half a megabyte: an agent that waits loads none of it.
LARGE_BYTES = 4096


def crc32(data: Any, value: int = 0) -> int:
    """Return the CRC-32 of bytes, after ``value``, that of what came before them."""
    if len(data) < LARGE_BYTES:
        return zlib.crc32(data, value)
    return _fastest()(data, value)


@functools.cache
def _fastest() -> Callable[[Any, int], int]:
    try:
        from isal import isal_zlib
    except ImportError:
        return zlib.crc32
    fastest: Callable[[Any, int], int] = isal_zlib.crc32
    return fastest
