"""`swapped`: a module runs on stacks in the place of its own parameters and buffers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from fedlearn.engine.stacked.stack import StackedTensor


@contextmanager
def swapped(module: nn.Module, stacks: Mapping[str, StackedTensor]) -> Iterator[None]:
    """Put stacks in the place of a module's tensors of the same names, tied ones too."""
    names = _names(module)
    # The tables are written directly: assigning to a layer would want a Parameter.
    # What is put back is a layer's table, the key in it, and the tensor.
    originals: list[tuple[dict[str, Any], str, Any]] = []
    flat_weights: list[tuple[nn.RNNBase, Any]] = []
    try:
        for layer in module.modules():
            tables: tuple[dict[str, Any], ...] = (layer._parameters, layer._buffers)
            for table in tables:
                for key, tensor in table.items():
                    if tensor is not None and names[id(tensor)] in stacks:
                        originals.append((table, key, tensor))
            # Recurrent layers keep their weights in a list besides.
            if isinstance(layer, nn.RNNBase):
                flat_weights.append((layer, layer._flat_weights))
        for table, key, tensor in originals:
            table[key] = stacks[names[id(tensor)]]
        for recurrent, weights in flat_weights:
            recurrent._flat_weights = [stacks[names[id(w)]] for w in weights]
        yield
    finally:
        for table, key, tensor in originals:
            table[key] = tensor
        for recurrent, weights in flat_weights:
            recurrent._flat_weights = weights


def _names(module: nn.Module) -> dict[int, str]:
    """Return the name of each parameter and buffer by its identity; tied ones have one."""
    names = {}
    for name, parameter in module.named_parameters():
        names[id(parameter)] = name
    for name, buffer in module.named_buffers():
        names[id(buffer)] = name
    return names
