"""Codecs: how the floats of a model or an update become bytes, and back."""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedlearn.errors import FormatError
from fedlearn.names import Named, import_path, nearest

CODECS = {
    "raw32": Named("fedlearn.codec.plain:Raw32", "float32 as it is, 4 bytes a value, exact"),
    "f16": Named("fedlearn.codec.plain:Float16", "half precision, 2 bytes a value, rounded to nearest"),
    "q8": Named("fedlearn.codec.buckets:q8", "8-bit levels, stochastic and unbiased, a float32 scale per 1,024 values"),
    "q4": Named("fedlearn.codec.buckets:q4", "4-bit levels, stochastic and unbiased, a float32 scale per 256 values"),
    "eden1": Named("fedlearn.codec.eden:Eden1", "EDEN: one bit a value after a random rotation, unbiased; for updates"),
}


FOR_DIFFERENCES = ("q4", "eden1")
"""Codecs too coarse for a whole model: downlink = "auto" sends the difference from the client's own copy."""


class Codec(Protocol):
    """A pure pair of functions; equal arguments give equal bytes on every machine."""

    def encode(self, values: NDArray[np.float32], seed: int) -> bytes:
        """Return the bytes of finite values (P,) float32; random numbers come from ``seed`` alone.

        Raises PayloadError for values that the codec cannot carry.
        """

    def decode(self, body: bytes, size: int, seed: int) -> NDArray[np.float32]:
        """Return ``size`` values (P,) float32; raises FormatError unless the bytes are exactly of that size."""


@lru_cache(maxsize=32)
def codec(name: str) -> Codec:
    """Return the codec of a name; raises FormatError for an unknown one."""
    if name not in CODECS:
        raise FormatError(f"unknown codec '{name}'.{nearest(name, CODECS)} Known: {', '.join(CODECS)}")
    made: Codec = import_path("codec", CODECS[name].path)()
    return made
