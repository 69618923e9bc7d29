"""Layers whose weight is a product of two factors, as after a low-rank cut.

W (O, I) ≈ up (O, r) · down (r, I), with a rank r well below O and I.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

# What tells a factored layer in a state: its first factor stands below its own name.
DOWN = "down.weight"


class FactoredLinear(nn.Module):
    """A dense layer in two: (…, I) → (…, r) → (…, O); the second has the bias."""

    def __init__(self, inputs: int, rank: int, outputs: int, bias: bool) -> None:
        """Make the layers."""
        super().__init__()
        self.down = nn.Linear(inputs, rank, bias=False)
        self.up = nn.Linear(rank, outputs, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return (…, O)."""
        output: Tensor = self.up(self.down(x))
        return output


class FactoredRecurrent(nn.Module):
    """A recurrent layer whose inputs (…, I) come to it as (…, r).

    The weights of its first layer's inputs are those of the recurrent layer times ``down``.
    """

    def __init__(self, inputs: int, rank: int, layer: nn.RNNBase) -> None:
        """Take the recurrent layer, whose input becomes ``rank`` wide."""
        super().__init__()
        self.down = nn.Linear(inputs, rank, bias=False)
        self.up = layer

    def forward(self, x: Tensor, state: object = None) -> object:
        """Return what the recurrent layer returns: its outputs, and its last state."""
        return self.up(self.down(x), state)


def is_factorable(layer: nn.Module) -> bool:
    """Tell whether a layer can be held as two factors: torch's own dense and recurrent ones."""
    return type(layer) in (nn.Linear, nn.LSTM, nn.GRU, nn.RNN)


def factor(module: nn.Module, shapes: Mapping[str, Sequence[int]]) -> None:
    """Put two factors in the place of each layer for which the shapes have them, in place.

    shapes: of the tensors of a state, by name; ``hidden.down.weight`` (r, I) asks for the
    factors of the layer ``hidden``.
    """
    layers = list(module.named_modules())
    for path, layer in layers:
        first = shapes.get(f"{path}.{DOWN}")
        # A model that is one layer alone has nothing to put another in.
        if not path or first is None or len(first) != 2 or not is_factorable(layer):
            continue
        parent, _, name = path.rpartition(".")
        setattr(module.get_submodule(parent), name, _factored(layer, first[0]))


def _factored(layer: nn.Module, rank: int) -> nn.Module:
    if isinstance(layer, nn.RNNBase):
        return FactoredRecurrent(layer.input_size, rank, layer)
    assert isinstance(layer, nn.Linear)
    has_bias = layer.bias is not None
    return FactoredLinear(layer.in_features, rank, layer.out_features, has_bias)
