"""What torch functions do to a `Stack`, in one call for all clients.

Legend: K clients, B batch, C channels, H height, W width, F features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from fedlearn.engine.stacked import lowrank
from fedlearn.engine.stacked.stack import (
    GROUPED,
    LOOSE,
    RULES,
    SHARED,
    Stack,
    as_dense,
    as_grouped,
    as_loose,
    channels_last,
    dense,
    grouped,
    loose,
    masks,
)

LARGE = 6e6
"""Operations of one client's convolution from which on calling it costs nothing beside them: then clients convolve apart."""

SHAPELESS = (
    *(
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
    ),
    *(
        F.mish,
        F.softplus,
        F.hardswish,
        F.hardsigmoid,
        torch.sigmoid,
        torch.Tensor.sigmoid,
        torch.tanh,
        torch.Tensor.tanh,
        F.tanh,
    ),
    *(
        torch.exp,
        torch.Tensor.exp,
        torch.sqrt,
        torch.Tensor.sqrt,
        torch.Tensor.neg,
        torch.neg,
        torch.Tensor.__neg__,
        torch.abs,
    ),
    *(torch.Tensor.float, torch.Tensor.clone, torch.Tensor.detach),
)
"""Of one tensor, value by value."""

PAIRWISE = (
    *(
        torch.add,
        torch.Tensor.add,
        torch.Tensor.__add__,
        torch.Tensor.__radd__,
        torch.Tensor.add_,
        torch.Tensor.__iadd__,
    ),
    *(
        torch.sub,
        torch.Tensor.sub,
        torch.Tensor.__sub__,
        torch.Tensor.__rsub__,
        torch.rsub,
    ),
    *(torch.mul, torch.Tensor.mul, torch.Tensor.__mul__, torch.Tensor.__rmul__),
    *(torch.div, torch.Tensor.div, torch.Tensor.__truediv__),
)
"""Of two tensors or numbers, value by value."""


def rule(*functions: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Enter a function as the rule of torch functions."""

    def enter(made: Callable[..., Any]) -> Callable[..., Any]:
        for function in functions:
            RULES[function] = made
        return made

    return enter


def _shapeless(function: Any) -> Any:
    def go(x: Any, *args: Any, **kwargs: Any) -> Any:
        if x.layout_ in (LOOSE, SHARED):
            return None
        return Stack(x.layout_, function(x.whole_, *args, **kwargs), clients=x.clients)

    return go


def _pairwise(function: Any) -> Any:
    def go(a: Any, b: Any, *args: Any, **kwargs: Any) -> Any:
        if any(
            isinstance(each, Stack) and each.layout_ in (LOOSE, SHARED)
            for each in (a, b)
        ):
            return None
        if isinstance(a, Stack) and isinstance(b, Stack):
            if GROUPED in (a.layout_, b.layout_) and a.shape == b.shape:
                return grouped(
                    function(as_grouped(a), as_grouped(b), *args, **kwargs), a.clients
                )
            first, second = _aligned(as_dense(a), as_dense(b))
            return dense(function(first, second, *args, **kwargs))
        stack = a if isinstance(a, Stack) else b
        other = b if isinstance(a, Stack) else a
        if (
            isinstance(other, torch.Tensor)
            and other.dim()
            and (stack.layout_ == GROUPED or other.dim() > stack.dim())
        ):
            return None
        whole = function(
            *(each.whole_ if isinstance(each, Stack) else each for each in (a, b)),
            *args,
            **kwargs,
        )
        return Stack(stack.layout_, whole, clients=stack.clients)

    return go


def _aligned(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Give two (K, …) the same number of dimensions: those of a client that lack are its first."""
    most = max(a.dim(), b.dim())
    first, second = (
        t.reshape(t.shape[0], *[1] * (most - t.dim()), *t.shape[1:]) for t in (a, b)
    )
    return first, second


RULES.update({function: _shapeless(function) for function in SHAPELESS})
RULES.update({function: _pairwise(function) for function in PAIRWISE})


@rule(F.linear)
def _linear(x: Any, weight: Any, bias: Any = None) -> Any:
    """(B, …, F) → (B, …, F'); one product of matrices for each client, or one for all where they share the weight."""
    if not isinstance(weight, Stack) or not isinstance(x, Stack):
        return None
    if weight.layout_ != SHARED and x.layout_ == LOOSE and x.dim() > 2:
        return None
    whole = as_dense(x)
    rows = whole.flatten(1, -2) if whole.dim() > 3 else whole
    if rows.dim() < 3:
        return None
    if weight.layout_ == SHARED:
        assert weight.whole_ is not None
        out = lowrank.linear(rows, weight.whole_, weight.steps)
        out = out if bias is None else out + as_dense(bias)[:, None]
    else:
        turned = as_dense(weight).transpose(1, 2)
        out = (
            torch.bmm(rows, turned)
            if bias is None
            else torch.baddbmm(as_dense(bias)[:, None], rows, turned)
        )
    return dense(out.view(*whole.shape[:-1], -1))


def apart(x: Any, weight: Any, positions: int) -> bool:
    """Tell whether clients convolve apart. positions: of the output, about, in one picture."""
    return bool(x.layout_ == LOOSE or 2.0 * len(x) * positions * weight.numel() > LARGE)


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
    if (
        not isinstance(weight, Stack)
        or not isinstance(x, Stack)
        or x.dim() != 4
        or x.layout_ == SHARED
    ):
        return None
    down, across = (stride, stride) if isinstance(stride, int) else stride
    if apart(x, weight, x.shape[2] * x.shape[3] // (down * across)):
        parts, kernels = (
            [channels_last(part) for part in as_loose(each)] for each in (x, weight)
        )
        own: Any = as_loose(bias) if bias is not None else [None] * len(parts)
        return loose(
            [
                F.conv2d(p, k, b, stride, padding, dilation, groups)
                for p, k, b in zip(parts, kernels, own, strict=True)
            ]
        )
    side_by_side = channels_last(as_dense(weight).flatten(0, 1))
    all_biases = None if bias is None else as_dense(bias).flatten()
    return grouped(
        F.conv2d(
            as_grouped(x),
            side_by_side,
            all_biases,
            stride,
            padding,
            dilation,
            groups * x.clients,
        ),
        x.clients,
    )


def _pooling(function: Any) -> Any:
    def go(x: Any, *args: Any, **kwargs: Any) -> Any:
        if (
            x.layout_ in (LOOSE, SHARED)
            or x.dim() != 4
            or kwargs.pop("return_indices", False)
        ):
            return None
        return grouped(function(as_grouped(x), *args, **kwargs), x.clients)

    return go


RULES.update(
    {
        function: _pooling(function)
        for function in (
            torch.max_pool2d,
            F.max_pool2d,
            F.avg_pool2d,
            F.adaptive_avg_pool2d,
        )
    }
)


@rule(F.batch_norm)
def _batch_norm(x: Any, mean: Any, var: Any, weight: Any = None, bias: Any = None, training: bool = False, momentum: float = 0.1,
                eps: float = 1e-5) -> Any:  # fmt: skip
    """Statistics are of each client's channel, and so is what they are kept in."""
    if x.layout_ in (LOOSE, SHARED) or x.dim() != 4:
        return None
    own_mean, own_var, own_weight, own_bias = (
        None if t is None else as_dense(t).view(-1) for t in (mean, var, weight, bias)
    )
    return grouped(
        F.batch_norm(
            as_grouped(x),
            own_mean,
            own_var,
            own_weight,
            own_bias,
            training,
            momentum,
            eps,
        ),
        x.clients,
    )


@rule(F.group_norm)
def _group_norm(
    x: Any, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Any:
    if x.layout_ in (LOOSE, SHARED) or x.dim() != 4:
        return None
    own_weight, own_bias = (
        None if t is None else as_dense(t).reshape(-1) for t in (weight, bias)
    )
    return grouped(
        F.group_norm(as_grouped(x), groups * x.clients, own_weight, own_bias, eps),
        x.clients,
    )


@rule(F.dropout, torch.dropout)
def _dropout(
    x: Any, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Any:
    if not training or p == 0:
        return x
    if p == 1:
        return None
    return dense(as_dense(x) * masks(x, 1 - p))


@rule(torch.flatten, torch.Tensor.flatten)
def _flatten(x: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    if x.layout_ in (LOOSE, SHARED):
        return None
    end = end_dim + 1 if end_dim >= 0 else end_dim
    start = start_dim + 1 if start_dim >= 0 else start_dim
    return dense(as_dense(x).flatten(start, end))
