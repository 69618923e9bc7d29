"""Binary weights: a layer computes with the signs of its weights, times a scale for each filter.

Source: Rastegari et al., "XNOR-Net: ImageNet Classification Using Binary Convolutional
Neural Networks", ECCV 2016, its Binary-Weight-Networks: the scale is the mean magnitude of
a filter's weights, the best one for their signs. Gradients pass straight through the sign:
Bengio et al., "Estimating or Propagating Gradients Through Stochastic Neurons for
Conditional Computation", arXiv 1308.3432, 2013. What differs: the scale's own gradient is
left out, and inputs stay floats.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fedlearn.errors import ModelError


class _Sign(torch.autograd.Function):
    """The signs of weights (O, …) times the mean magnitude of each of O filters."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        """Return the binary weights, of the same shape."""
        ctx.save_for_backward(weight)
        return binary(weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Return the gradient as it came, but 0 where a weight is beyond 1."""
        weight: Tensor = ctx.saved_tensors[0]
        # Beyond 1 a weight's sign is settled; it would only grow.
        return gradient * (weight.abs() <= 1)


def _signed(weight: Tensor) -> Tensor:
    """Return the binary weights, through which gradients pass."""
    # torch's own stub of it has no types.
    signed: Tensor = _Sign.apply(weight)  # type: ignore[no-untyped-call]
    return signed


def binary(weight: Tensor) -> Tensor:
    """Return the signs of weights (O, …) times each filter's mean magnitude.

    Weights that are binary already stay the same, bit for bit.
    """
    # In float64 the mean of equal float32 numbers is that number.
    means = weight.detach().double().abs().flatten(1).mean(1).to(weight.dtype)
    scales = means.view(-1, *[1] * (weight.dim() - 1))
    return torch.where(weight >= 0, scales, -scales)


class BinaryLinear(nn.Linear):
    """A dense layer that computes with binary weights."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (…, O) for (…, I)."""
        return nn.functional.linear(x, _signed(self.weight), self.bias)


class BinaryConv1d(nn.Conv1d):
    """A convolution over series that computes with binary weights."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, O, T') for (B, I, T)."""
        # torch's own stub of it has no types.
        output: Tensor = self._conv_forward(x, _signed(self.weight), self.bias)
        return output


class BinaryConv2d(nn.Conv2d):
    """A convolution over images that computes with binary weights."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, O, H', W') for (B, I, H, W)."""
        # torch's own stub of it has no types.
        output: Tensor = self._conv_forward(x, _signed(self.weight), self.bias)
        return output


_BINARY: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: BinaryLinear,
    nn.Conv1d: BinaryConv1d,
    nn.Conv2d: BinaryConv2d,
}
_FLOAT = {binary_class: float_class for float_class, binary_class in _BINARY.items()}

# What counts as a layer when the first and the last one are looked for.
_WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding, nn.RNNBase)


def binarise(label: str, module: nn.Module) -> None:
    """Let a module's layers between the first and the last compute with binary weights.

    In place, in the order in which the module defines its layers. Parameters keep names,
    shapes and values: training goes on in floats. Recurrent layers, embeddings and a
    user's own layers stay. label: names the model in messages. Raises ModelError where
    nothing is left to binarise.
    """
    names = binary_names(module)
    if not names:
        raise ModelError(
            f"{label} has no dense layer or convolution between its first and its last "
            "layer, so binary = true would change nothing; leave it out"
        )
    layers = dict(module.named_modules())
    for name in names:
        layer = layers[name]
        # Parameters, hooks and the memory's order stay those of the layer.
        layer.__class__ = _BINARY[type(layer)]


def binary_names(module: nn.Module) -> list[str]:
    """Return the names of the layers that are binary, or would become it."""
    weighted = [
        (name, layer)
        for name, layer in module.named_modules()
        if isinstance(layer, _WEIGHTED)
    ]
    # The first layer sees the samples, and the last one decides: both need their floats.
    inner = weighted[1:-1]
    return [
        name for name, layer in inner if type(layer) in _BINARY or type(layer) in _FLOAT
    ]


def settle(module: nn.Module) -> None:
    """Put the binary weights in the place of those that were trained, in place.

    Layers are ordinary ones again, and compute what they computed.
    """
    for layer in module.modules():
        float_class = _FLOAT.get(type(layer))
        if float_class is None:
            continue
        with torch.no_grad():
            weight = layer.weight
            assert isinstance(weight, Tensor)
            weight.copy_(binary(weight))
        layer.__class__ = float_class
