"""`StackedTensor`: the tensors of many clients that pass for the tensor of one.

A module runs on it as it is written. Every torch function that meets a StackedTensor is looked
up in `RULES`, whose functions do the work of all clients in one call. A function without
a rule is called client by client, which is always right, and slow. Four layouts:

dense    (K, …)          clients' tensors one after another; parameters, dense layers
grouped  (B, K·C, H, W)  channels_last; all clients' channels side by side, for grouped
                         convolutions
loose    K tensors       where a call per client is as fast: large convolutions,
                         recurrent layers
shared   (…)             one weight for all, with each client's steps in ``steps``: see
                         `fedlearn.engine.stacked.lowrank`

Legend: K clients, B batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils import _pytree as tree

DENSE = "dense"
GROUPED = "grouped"
LOOSE = "loose"
SHARED = "shared"

Rule = Callable[..., Any]

# torch function → what does it for a StackedTensor. A rule is called as the function is, and
# returns None for a call that it cannot do.
RULES: dict[Any, Rule] = {}


class NotStackable(Exception):
    """The model does what only one client at a time can do; the text says what."""


class StackedTensor(torch.Tensor):
    """K clients' tensors of one shape. Its own storage is empty."""

    # torch.Tensor has attributes such as `layout` and `values`, which these must not hide.
    layout_: str
    # The values of all clients, as the layout says; None where it is loose.
    values_: torch.Tensor | None
    # Each client's tensor where the layout is loose; otherwise None.
    parts_: Sequence[torch.Tensor] | None
    # K.
    clients: int
    # What clients' steps did to a shared weight, a `LowRankSteps`; otherwise None.
    steps: Any

    @staticmethod
    def __new__(
        cls,
        layout: str,
        values: torch.Tensor | None,
        parts: Sequence[torch.Tensor] | None = None,
        clients: int = 0,
        steps: Any = None,
    ) -> StackedTensor:
        """Make a StackedTensor of ``values`` or else of ``parts``.

        clients: K, where the shape does not tell it.
        """
        if values is None:
            assert parts is not None
            example = parts[0]
            clients = len(parts)
            shape: tuple[int, ...] = tuple(example.shape)
        else:
            example = values
            shape = tuple(values.shape)
            if layout == DENSE:
                clients = shape[0]
                shape = shape[1:]
            elif layout == GROUPED:
                shape = (shape[0], shape[1] // clients, *shape[2:])
        stack: StackedTensor = torch.Tensor._make_wrapper_subclass(
            cls, shape, dtype=example.dtype, device=example.device
        )
        stack.layout_ = layout
        stack.values_ = values
        stack.parts_ = parts
        stack.clients = clients
        stack.steps = steps
        return stack

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Call a torch function for all clients."""
        kwargs = kwargs or {}
        if func in _OF_SHAPE:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        rule = RULES.get(func)
        if rule is not None:
            result = rule(*args, **kwargs)
            if result is not None:
                return result
        return one_by_one(func, args, kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Raise NotStackable: such a call went round `__torch_function__`."""
        # There are no values here: any result would be wrong.
        raise NotStackable(f"no way to do {func} for many clients")

    def __repr__(self) -> str:  # type: ignore[override]
        """Return what it is, not its values."""
        shape = tuple(self.shape)
        return f"StackedTensor({self.layout_}, {self.clients} clients, {shape})"

    __str__ = __repr__


# Functions that depend on the shape and type of one client's tensor only.
_OF_SHAPE = {
    torch.Tensor.shape.__get__,  # type: ignore[attr-defined]
    torch.Tensor.dtype.__get__,  # type: ignore[attr-defined]
    torch.Tensor.device.__get__,
    torch.Tensor.ndim.__get__,  # type: ignore[attr-defined]
    torch.Tensor.layout.__get__,  # type: ignore[attr-defined]
    torch.Tensor.is_sparse.__get__,  # type: ignore[attr-defined]
    torch.Tensor.is_cuda.__get__,  # type: ignore[attr-defined]
    torch.Tensor.is_nested.__get__,  # type: ignore[attr-defined]
    torch.Tensor.requires_grad.__get__,  # type: ignore[attr-defined]
    torch.Tensor.size,
    torch.Tensor.dim,
    torch.Tensor.numel,
    torch.Tensor.__len__,
    torch.Tensor.is_floating_point,
    torch.is_floating_point,
    torch.Tensor.is_complex,
    torch.is_complex,
}

# Functions whose result one client's values would decide for all.
_OF_VALUES = {
    torch.Tensor.item,
    torch.Tensor.tolist,
    torch.Tensor.numpy,
    torch.Tensor.__bool__,
    torch.Tensor.__float__,
    torch.Tensor.__int__,
}

# Parts of the names of functions that draw random numbers. Without a rule they would
# draw the numbers of another client.
_RANDOM_NAMES = (
    "drop",
    "rand",
    "bernoulli",
    "multinomial",
    "normal_",
    "uniform_",
    "exponential_",
)


def dense(values: torch.Tensor) -> StackedTensor:
    """Return a StackedTensor of (K, …)."""
    return StackedTensor(DENSE, values)


def grouped(values: torch.Tensor, clients: int) -> StackedTensor:
    """Return a StackedTensor of (B, K·C, H, W)."""
    return StackedTensor(GROUPED, values, clients=clients)


def loose(parts: Sequence[torch.Tensor]) -> StackedTensor:
    """Return a StackedTensor of K tensors."""
    return StackedTensor(LOOSE, None, parts)


def as_dense(stack: StackedTensor) -> torch.Tensor:
    """Return (K, …). Raises NotStackable where the clients' tensors differ in shape."""
    if stack.layout_ == DENSE:
        assert stack.values_ is not None
        return stack.values_
    if stack.layout_ == GROUPED:
        assert stack.values_ is not None
        batch, _, *size = stack.values_.shape
        by_picture = stack.values_.reshape(batch, stack.clients, -1, *size)
        return by_picture.transpose(0, 1)
    parts = as_loose(stack)
    if any(part.shape != parts[0].shape for part in parts):
        raise NotStackable("clients' tensors differ in shape")
    return torch.stack(list(parts))


def as_grouped(stack: StackedTensor) -> torch.Tensor:
    """Return (B, K·C, H, W) of a StackedTensor of pictures. Raises NotStackable, as `as_dense`."""
    if stack.layout_ == GROUPED:
        assert stack.values_ is not None
        return stack.values_
    values = as_dense(stack)
    clients, batch, channels, *size = values.shape
    by_picture = values.transpose(0, 1)
    joined = by_picture.reshape(batch, clients * channels, *size)
    return channels_last(joined)


def channels_last(x: torch.Tensor) -> torch.Tensor:
    """Return pictures (B, C, H, W) with the channels last in memory.

    With one channel both orders are the same bytes. torch then takes the strides of the
    other order, in which it pools slowly, so they are set here.
    """
    _, channels, height, width = x.shape
    pictures = x.contiguous(memory_format=torch.channels_last)
    if channels != 1:
        return pictures
    strides = (channels * height * width, 1, channels * width, channels)
    return pictures.as_strided(pictures.shape, strides)


def as_loose(stack: StackedTensor) -> Sequence[torch.Tensor]:
    """Return K tensors. Raises NotStackable for a shared weight."""
    if stack.layout_ == LOOSE:
        assert stack.parts_ is not None
        return stack.parts_
    if stack.layout_ == SHARED:
        raise NotStackable(
            "a shared weight is used by another function than a dense layer's"
        )
    return as_dense(stack).unbind(0)


def one_by_one(func: Any, args: Any, kwargs: Any) -> Any:
    """Call a function for each client by itself.

    Raises NotStackable for one that looks at values, draws random numbers, or gives
    clients results that differ and are no tensors.
    """
    name = getattr(func, "__name__", str(func))
    # A client's value would choose the way of all.
    if func in _OF_VALUES:
        raise NotStackable(f"the model looks at values ({name})")
    if any(part in name for part in _RANDOM_NAMES):
        raise NotStackable(f"{name} draws random numbers in a way of its own")
    # Stacks may stand anywhere in the arguments, in lists too.
    flat, spec = tree.tree_flatten((args, kwargs))
    stacks = [value for value in flat if isinstance(value, StackedTensor)]
    split = [
        as_loose(value) if isinstance(value, StackedTensor) else None for value in flat
    ]
    results = []
    for client in range(stacks[0].clients):
        client_values = [
            value if parts is None else parts[client]
            for value, parts in zip(flat, split, strict=True)
        ]
        client_args, client_kwargs = tree.tree_unflatten(client_values, spec)
        results.append(func(*client_args, **client_kwargs))
    return _joined(name, results)


def _joined(name: str, results: Sequence[Any]) -> Any:
    """Return the clients' results of a function as one, tensor by tensor."""
    if all(result is None for result in results):
        return None
    flattened = [tree.tree_flatten(result) for result in results]
    joined = []
    for values in zip(*(flat for flat, _ in flattened), strict=True):
        if all(isinstance(value, torch.Tensor) for value in values):
            joined.append(loose(values))
        elif all(value == values[0] for value in values):
            joined.append(values[0])
        else:
            raise NotStackable(f"{name} gives clients different values")
    return tree.tree_unflatten(joined, flattened[0][1])
