"""Binarised weights in a file: bits and scales, and floats again when they are loaded.

What binary weights are, and how they are trained: `fedlearn.models.binary`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from fedlearn.arrays import Layout, State
from fedlearn.models import bits

# Beside `model.safetensors`, which has the same weights as floats.
BITS_FILE = "model.bits.safetensors"


def packed_file(layout: Layout, state: State, layers: list[str]) -> bytes:
    """Return a safetensors file of a state, with the weights of some layers as bits.

    layers: names; their weights are binary already. Other tensors stay as they are.
    Raises FormatError for weights that are not binary.
    """
    tensors: dict[str, NDArray[np.generic]] = dict(layout.split(state))
    names = [f"{layer}.weight" for layer in layers]
    return save(bits.pack(tensors, names))
