"""A model in other widths: its layers take the shapes of given tensors, as after pruning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from fedlearn.errors import ModelError
from fedlearn.models.factors import factor

Shapes = Mapping[str, Sequence[int]]
"""The shape of each tensor of a model's state, by its name."""


def resize(label: str, module: nn.Module, shapes: Shapes) -> None:
    """Give a module's parameters and buffers other shapes, in place; their values become 0.

    Sizes that layers keep as attributes follow: channels, features, groups of depthwise
    convolutions, hidden units. A layer of which the shapes have two factors becomes two
    layers (`fedlearn.models.factors`). label: names the model in messages. Raises
    ModelError for tensors that the module lacks, has besides, or whose number of axes
    differs.
    """
    factor(module, shapes)
    state = module.state_dict()
    _check(label, {name: tuple(tensor.shape) for name, tensor in state.items()}, shapes)
    for path, layer in module.named_modules():
        prefix = f"{path}." if path else ""
        own = _own_shapes(layer, prefix, shapes)
        if own:
            _resize_layer(layer, own)
            _resize_tensors(layer, own)


def _check(label: str, before: Mapping[str, tuple[int, ...]], shapes: Shapes) -> None:
    for name, shape in before.items():
        if name not in shapes:
            raise ModelError(f"{label} has a tensor '{name}' that the shapes lack")
        if len(shapes[name]) != len(shape):
            raise ModelError(
                f"tensor '{name}' of {label} has shape {list(shape)}, "
                f"which cannot become {list(shapes[name])}"
            )
    for name in shapes:
        if name not in before:
            raise ModelError(f"{label} has no tensor '{name}', which the shapes have")


def _own_shapes(
    layer: nn.Module, prefix: str, shapes: Shapes
) -> dict[str, tuple[int, ...]]:
    """Return the new shapes of a layer's own tensors, without those of layers inside it."""
    names = [name for name, _ in layer.named_parameters(recurse=False)]
    names += [name for name, _ in layer.named_buffers(recurse=False)]
    # A buffer that no state holds has no shape of its own here.
    known = [name for name in names if prefix + name in shapes]
    return {name: tuple(shapes[prefix + name]) for name in known}


def _resize_layer(layer: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Let the sizes that a layer keeps as attributes follow its tensors' shapes."""
    weight = shapes.get("weight", ())
    if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        # A depthwise convolution has a group for each channel, however many there are.
        if layer.groups == layer.in_channels and layer.groups > 1:
            layer.groups = weight[0]
        layer.out_channels = weight[0]
        layer.in_channels = weight[1] * layer.groups
    elif isinstance(layer, nn.Linear):
        layer.out_features = weight[0]
        layer.in_features = weight[1]
    elif isinstance(layer, nn.Embedding):
        layer.num_embeddings = weight[0]
        layer.embedding_dim = weight[1]
    elif isinstance(layer, nn.GroupNorm) and weight:
        layer.num_channels = weight[0]
    elif isinstance(layer, nn.modules.batchnorm._BatchNorm) and weight:
        layer.num_features = weight[0]
    elif isinstance(layer, nn.LayerNorm) and weight:
        layer.normalized_shape = weight
    elif isinstance(layer, nn.RNNBase):
        # The weights of all gates stand below one another, those of the input in
        # `weight_ih_l0`.
        layer.input_size = shapes["weight_ih_l0"][1]
        layer.hidden_size = shapes["weight_hh_l0"][1]


def _resize_tensors(layer: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> None:
    for name, shape in shapes.items():
        tensor = getattr(layer, name)
        if tuple(tensor.shape) == shape:
            continue
        zeros = torch.zeros(shape, dtype=tensor.dtype)
        # The memory format decides how fast a convolution is, and stays as it was.
        if tensor.dim() == 4 and tensor.is_contiguous(
            memory_format=torch.channels_last
        ):
            zeros = zeros.contiguous(memory_format=torch.channels_last)
        if isinstance(tensor, nn.Parameter):
            setattr(layer, name, nn.Parameter(zeros, tensor.requires_grad))
        else:
            setattr(layer, name, zeros)
