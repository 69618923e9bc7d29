"""A model in other widths: its layers take the shapes of given tensors, as after pruning."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from fedlearn.errors import ModelError, reason_of
from fedlearn.models.factors import factor

Shapes = Mapping[str, Sequence[int]]
"""The shape of each tensor of a model's state, by its name."""


class MisfitError(ModelError):
    """Shapes that a model cannot take: they, and not the model, are to be mended."""


def resize(label: str, module: nn.Module, shapes: Shapes) -> None:
    """Give a module's parameters and buffers other shapes, in place; their values become 0.

    Sizes that layers keep as attributes follow: channels, features, groups of depthwise
    convolutions, hidden units. A layer of which the shapes have two factors becomes two
    layers (`fedlearn.models.factors`). label: names the model in messages. Raises
    MisfitError for tensors that the module lacks, has besides, whose number of axes
    differs, or that hold nothing.
    """
    _check_sizes(label, _shapes_of(module), shapes)
    factor(module, shapes)
    _check(label, _shapes_of(module), shapes)
    for path, layer in module.named_modules():
        prefix = f"{path}." if path else ""
        own = _own_shapes(layer, prefix, shapes)
        if own:
            _resize_layer(layer, own)
            _resize_tensors(layer, own)


@contextlib.contextmanager
def blamed(label: str, module: nn.Module, shapes: Shapes) -> Iterator[None]:
    """Have a ModelError of a block name the tensor at which a resized module failed.

    That is one of the last layer that was called: it was given, or it gave, what does not
    fit. Raises MisfitError in the place of ModelError.
    """
    called: list[str] = []
    hooks = []
    for path, layer in module.named_modules():
        prefix = f"{path}." if path else ""
        # Its weight before its bias, which says less.
        names = sorted(_own_shapes(layer, prefix, shapes), reverse=True)
        if names:
            hooks.append(
                layer.register_forward_pre_hook(_noting(called, prefix, names))
            )
    try:
        yield
    except ModelError as error:
        if not called:
            raise MisfitError(f"{label} takes no such shapes: {error}") from error
        # What its owner is advised there is about the model.
        reason = str(error).partition(";")[0]
        if error.__cause__ is not None:
            reason = reason_of(error.__cause__)
        name = called[-1]
        raise MisfitError(
            f"tensor '{name}' {list(shapes[name])} does not fit the rest of {label}: "
            f"{reason}"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()


def _noting(called: list[str], prefix: str, names: Sequence[str]) -> Any:
    """Return a hook that notes a layer's tensor when the layer is called."""
    name = "weight" if "weight" in names else names[0]

    def note(layer: nn.Module, inputs: object) -> None:
        called.append(prefix + name)

    return note


def _shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def _check_sizes(
    label: str, before: Mapping[str, tuple[int, ...]], shapes: Shapes
) -> None:
    """Refuse tensors without values where the module has some. Raises MisfitError."""
    for name, shape in shapes.items():
        if 0 in shape and 0 not in before.get(name, ()):
            raise MisfitError(
                f"tensor '{name}' {list(shape)} would leave a layer of {label} without "
                "units"
            )


def _check(label: str, before: Mapping[str, tuple[int, ...]], shapes: Shapes) -> None:
    for name, shape in before.items():
        if name not in shapes:
            raise MisfitError(f"tensor '{name}' {list(shape)} of {label} is missing")
        if len(shapes[name]) != len(shape):
            raise MisfitError(
                f"tensor '{name}' {list(shapes[name])} does not fit {label}, which has it "
                f"as {list(shape)}: layers become narrower or wider, and stay of one kind"
            )
    for name, own_shape in shapes.items():
        if name not in before:
            raise MisfitError(f"{label} has no tensor '{name}' {list(own_shape)}")


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
