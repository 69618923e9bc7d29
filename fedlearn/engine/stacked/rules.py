"""What torch functions do to a `StackedTensor`, in one call for all clients.

Legend: K clients, B batch, C channels, H height, W width, F features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from fedlearn.engine.stacked import lowrank
from fedlearn.engine.stacked.chance import masks
from fedlearn.engine.stacked.stack import (
    GROUPED,
    LOOSE,
    RULES,
    SHARED,
    StackedTensor,
    as_dense,
    as_grouped,
    as_loose,
    channels_last,
    dense,
    grouped,
    loose,
)

# Operations of one client's convolution from which on a call of its own costs nothing
# beside them: then clients convolve one by one.
LARGE = 6e6

# Functions of one tensor, value by value.
UNARY = (
    torch.relu,
    torch.relu_,
    F.relu,
    torch.Tensor.relu,
    torch.Tensor.relu_,
    F.relu6,
    F.hardtanh,
    F.leaky_relu,
    F.elu,
    F.gelu,
    F.silu,
    F.mish,
    F.softplus,
    F.hardswish,
    F.hardsigmoid,
    torch.sigmoid,
    torch.Tensor.sigmoid,
    torch.tanh,
    torch.Tensor.tanh,
    F.tanh,
    torch.exp,
    torch.Tensor.exp,
    torch.sqrt,
    torch.Tensor.sqrt,
    torch.Tensor.neg,
    torch.neg,
    torch.Tensor.__neg__,
    torch.abs,
    torch.Tensor.float,
    torch.Tensor.clone,
    torch.Tensor.detach,
)

# Functions of two tensors or numbers, value by value.
BINARY = (
    torch.add,
    torch.Tensor.add,
    torch.Tensor.__add__,
    torch.Tensor.__radd__,
    torch.Tensor.add_,
    torch.Tensor.__iadd__,
    torch.sub,
    torch.Tensor.sub,
    torch.Tensor.__sub__,
    torch.Tensor.__rsub__,
    torch.rsub,
    torch.mul,
    torch.Tensor.mul,
    torch.Tensor.__mul__,
    torch.Tensor.__rmul__,
    torch.div,
    torch.Tensor.div,
    torch.Tensor.__truediv__,
)

# Functions that look at each picture's channels one by one.
POOLING = (torch.max_pool2d, F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d)


def rule(*functions: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Enter a function as the rule of torch functions."""

    def enter(rule_function: Callable[..., Any]) -> Callable[..., Any]:
        for function in functions:
            RULES[function] = rule_function
        return rule_function

    return enter


def _unary(function: Any) -> Any:
    def apply(x: Any, *args: Any, **kwargs: Any) -> Any:
        if x.layout_ in (LOOSE, SHARED):
            return None
        # Value by value, so that the layout stays.
        values = function(x.values_, *args, **kwargs)
        return StackedTensor(x.layout_, values, clients=x.clients)

    return apply


def _binary(function: Any) -> Any:
    def apply(a: Any, b: Any, *args: Any, **kwargs: Any) -> Any:
        if _without_values(a) or _without_values(b):
            return None
        if not isinstance(a, StackedTensor):
            return _stack_and_other(function, b, a, (a, b.values_), args, kwargs)
        if not isinstance(b, StackedTensor):
            return _stack_and_other(function, a, b, (a.values_, b), args, kwargs)
        if GROUPED in (a.layout_, b.layout_) and a.shape == b.shape:
            values = function(as_grouped(a), as_grouped(b), *args, **kwargs)
            return grouped(values, a.clients)
        # Broadcasting is over a client's dimensions, and never over clients.
        first, second = _aligned(as_dense(a), as_dense(b))
        return dense(function(first, second, *args, **kwargs))

    return apply


def _without_values(x: Any) -> bool:
    """Tell whether x is a StackedTensor that has no tensor with the values of all clients."""
    if not isinstance(x, StackedTensor):
        return False
    return x.layout_ in (LOOSE, SHARED)


def _stack_and_other(
    function: Any,
    stack: StackedTensor,
    other: Any,
    operands: Any,
    args: Any,
    kwargs: Any,
) -> Any:
    """Return a function of a StackedTensor and of what is none. operands: both, in their order."""
    # A tensor would line up with other dimensions than those of one client.
    is_tensor = isinstance(other, torch.Tensor) and other.dim()
    if is_tensor and (stack.layout_ == GROUPED or other.dim() > stack.dim()):
        return None
    values = function(*operands, *args, **kwargs)
    return StackedTensor(stack.layout_, values, clients=stack.clients)


def _aligned(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return two (K, …) with as many dimensions; a client's missing ones come first."""
    dimensions = max(a.dim(), b.dim())
    first = _with_dimensions(a, dimensions)
    second = _with_dimensions(b, dimensions)
    return first, second


def _with_dimensions(x: torch.Tensor, dimensions: int) -> torch.Tensor:
    clients, *shape = x.shape
    missing = [1] * (dimensions - x.dim())
    return x.reshape(clients, *missing, *shape)


def _pooling(function: Any) -> Any:
    def apply(x: Any, *args: Any, **kwargs: Any) -> Any:
        # torch passes it where it is false; with indices there would be two results.
        if _not_pictures(x) or kwargs.pop("return_indices", False):
            return None
        return grouped(function(as_grouped(x), *args, **kwargs), x.clients)

    return apply


def _not_pictures(x: Any) -> bool:
    """Tell whether a StackedTensor cannot be grouped: (B, C, H, W) of each client can."""
    if x.layout_ in (LOOSE, SHARED):
        return True
    return bool(x.dim() != 4)


RULES.update({function: _unary(function) for function in UNARY})
RULES.update({function: _binary(function) for function in BINARY})
RULES.update({function: _pooling(function) for function in POOLING})


@rule(F.linear)
def _linear(x: Any, weight: Any, bias: Any = None) -> Any:
    """Return (B, …, F') of (B, …, F): a product of matrices per client.

    Where clients share the weight, it is one product for all.
    """
    if not isinstance(weight, StackedTensor) or not isinstance(x, StackedTensor):
        return None
    # Loose sequences stay loose: recurrent layers make them, one client at a time.
    if weight.layout_ != SHARED and x.layout_ == LOOSE and x.dim() > 2:
        return None
    values = as_dense(x)
    rows = values
    if values.dim() > 3:
        rows = values.flatten(1, -2)
    # A single sample of each client, which `bmm` cannot take.
    if rows.dim() < 3:
        return None
    if weight.layout_ == SHARED:
        assert weight.values_ is not None
        out = lowrank.linear(rows, weight.values_, weight.steps)
        if bias is not None:
            out = out + as_dense(bias)[:, None]
    elif bias is None:
        out = torch.bmm(rows, as_dense(weight).transpose(1, 2))
    else:
        transposed = as_dense(weight).transpose(1, 2)
        out = torch.baddbmm(as_dense(bias)[:, None], rows, transposed)
    return dense(out.view(*values.shape[:-1], -1))


def convolves_alone(x: Any, weight: Any, positions: int) -> bool:
    """Tell whether each client's convolution is a call of its own.

    positions: of the output in one picture, about.
    """
    if x.layout_ == LOOSE:
        return True
    # A multiplication and an addition for each weight at each position.
    operations = 2.0 * len(x) * positions * weight.numel()
    return bool(operations > LARGE)


@rule(F.conv2d, torch.conv2d)
def _conv2d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    if not isinstance(weight, StackedTensor) or not isinstance(x, StackedTensor):
        return None
    if x.dim() != 4 or x.layout_ == SHARED:
        return None
    down, across = _both(stride)
    if convolves_alone(x, weight, x.shape[2] * x.shape[3] // (down * across)):
        return _loose_conv2d(x, weight, bias, (stride, padding, dilation, groups))
    # All clients' kernels side by side: each group of channels meets its own.
    kernels = channels_last(as_dense(weight).flatten(0, 1))
    biases = None
    if bias is not None:
        biases = as_dense(bias).flatten()
    values = F.conv2d(
        as_grouped(x), kernels, biases, stride, padding, dilation, groups * x.clients
    )
    return grouped(values, x.clients)


def _both(stride: Any) -> tuple[int, int]:
    """Return a stride down and across."""
    if isinstance(stride, int):
        return stride, stride
    down, across = stride
    return down, across


def _loose_conv2d(
    x: StackedTensor, weight: StackedTensor, bias: Any, options: Any
) -> StackedTensor:
    """Return each client's convolution. options: stride, padding, dilation, groups."""
    pictures = [channels_last(part) for part in as_loose(x)]
    kernels = [channels_last(part) for part in as_loose(weight)]
    biases: Any = [None] * len(pictures)
    if bias is not None:
        biases = as_loose(bias)
    values = []
    for picture, kernel, client_bias in zip(pictures, kernels, biases, strict=True):
        values.append(F.conv2d(picture, kernel, client_bias, *options))
    return loose(values)


@rule(F.batch_norm)
def _batch_norm(
    x: Any,
    mean: Any,
    var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """Normalise each client's channels; running statistics are each client's own too."""
    if _not_pictures(x):
        return None
    # Views, not copies: torch updates the running statistics in place.
    mean, var, weight, bias = (
        None if t is None else as_dense(t).view(-1) for t in (mean, var, weight, bias)
    )
    values = F.batch_norm(
        as_grouped(x), mean, var, weight, bias, training, momentum, eps
    )
    return grouped(values, x.clients)


@rule(F.group_norm)
def _group_norm(
    x: Any, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Any:
    if _not_pictures(x):
        return None
    weight, bias = (
        None if t is None else as_dense(t).reshape(-1) for t in (weight, bias)
    )
    # Groups of channels never reach over clients, whose channels are side by side.
    values = F.group_norm(as_grouped(x), groups * x.clients, weight, bias, eps)
    return grouped(values, x.clients)


@rule(F.dropout, torch.dropout)
def _dropout(
    x: Any, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Any:
    if not training or p == 0:
        return x
    # A mask would divide by 0. Without a rule, the model is not stacked.
    if p == 1:
        return None
    return dense(as_dense(x) * masks(x, 1 - p))


@rule(torch.flatten, torch.Tensor.flatten)
def _flatten(x: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    if x.layout_ in (LOOSE, SHARED):
        return None
    # The first dimension of (K, …) is that of the clients.
    start = start_dim
    if start_dim >= 0:
        start = start_dim + 1
    end = end_dim
    if end_dim >= 0:
        end = end_dim + 1
    return dense(as_dense(x).flatten(start, end))
