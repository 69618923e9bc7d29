"""`Stack`: the tensors of many clients that pass for the tensor of one.

A module runs on it as it is written: every torch function that meets a Stack is looked up in `RULES`, which do the work of
all clients in one call. What has no rule is done client by client, which is always right, and slow. Four layouts:

dense    (K, …)           a client's tensor after another; parameters, and what dense layers see
grouped  (B, K·C, H, W)   channels_last; all clients' channels side by side, for grouped convolutions
loose    K tensors        where a call per client is as fast: large convolutions, recurrent layers
shared   (…)              one weight for all, with each client's steps in `steps`: see `fedlearn.engine.stacked.lowrank`

Legend: K clients, B batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as tree

DENSE, GROUPED, LOOSE, SHARED = "dense", "grouped", "loose", "shared"

Rule = Callable[..., Any]

RULES: dict[Any, Rule] = {}
"""torch function → what does it for a Stack: called as the function is; None from it means that this call has no rule."""


class NotStackable(Exception):
    """A model does what only one client at a time can do; the text says what."""


class Stack(torch.Tensor):
    """K clients' tensors of one shape; ``data`` of torch's own is not theirs: see `whole` and `parts`."""

    layout_: str
    whole_: (
        torch.Tensor | None
    )  # all clients', as the layout says; None where it is loose
    parts_: Sequence[torch.Tensor] | None
    clients: int
    steps: Any

    @staticmethod
    def __new__(
        cls,
        layout: str,
        whole: torch.Tensor | None,
        parts: Sequence[torch.Tensor] | None = None,
        clients: int = 0,
        steps: Any = None,
    ) -> Stack:
        """Make a Stack; give ``whole``, or else ``parts``. clients: K, where the shape does not tell."""
        if whole is None:
            assert parts is not None
            one, clients = parts[0], len(parts)
            shape: tuple[int, ...] = tuple(one.shape)
        else:
            one, shape = whole, tuple(whole.shape)
            if layout == DENSE:
                clients, shape = shape[0], shape[1:]
            elif layout == GROUPED:
                shape = (shape[0], shape[1] // clients, *shape[2:])
        made: Stack = torch.Tensor._make_wrapper_subclass(
            cls, shape, dtype=one.dtype, device=one.device
        )
        made.layout_, made.whole_, made.parts_, made.clients, made.steps = (
            layout,
            whole,
            parts,
            clients,
            steps,
        )
        return made

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Do a torch function for all clients."""
        kwargs = kwargs or {}
        if func in _OWN:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        rule = RULES.get(func)
        if rule is not None:
            found = rule(*args, **kwargs)
            if found is not None:
                return found
        return one_by_one(func, args, kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Refuse: what arrives here went round `__torch_function__`."""
        raise NotStackable(f"no way to do {func} for many clients")

    def __repr__(self) -> str:  # type: ignore[override]
        """Return what it is, not its values."""
        return f"Stack({self.layout_}, {self.clients} clients, {tuple(self.shape)})"

    __str__ = __repr__


_OWN = {
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
"""What is asked of the shape of one client's tensor."""


def dense(whole: torch.Tensor) -> Stack:
    """Return a Stack of (K, …)."""
    return Stack(DENSE, whole)


def grouped(whole: torch.Tensor, clients: int) -> Stack:
    """Return a Stack of (B, K·C, H, W)."""
    return Stack(GROUPED, whole, clients=clients)


def loose(parts: Sequence[torch.Tensor]) -> Stack:
    """Return a Stack of K tensors."""
    return Stack(LOOSE, None, parts)


def as_dense(stack: Stack) -> torch.Tensor:
    """Return (K, …)."""
    if stack.layout_ == DENSE:
        assert stack.whole_ is not None
        return stack.whole_
    if stack.layout_ == GROUPED:
        assert stack.whole_ is not None
        batch, _, *rest = stack.whole_.shape
        return stack.whole_.reshape(batch, stack.clients, -1, *rest).transpose(0, 1)
    parts = as_loose(stack)
    if any(part.shape != parts[0].shape for part in parts):
        raise NotStackable("clients' tensors differ in shape")
    return torch.stack(list(parts))


def as_grouped(stack: Stack) -> torch.Tensor:
    """Return (B, K·C, H, W) of a Stack of pictures."""
    if stack.layout_ == GROUPED:
        assert stack.whole_ is not None
        return stack.whole_
    clients, batch, channels, *rest = (whole := as_dense(stack)).shape
    return channels_last(
        whole.transpose(0, 1).reshape(batch, clients * channels, *rest)
    )


def channels_last(x: torch.Tensor) -> torch.Tensor:
    """Return pictures (B, C, H, W) with the channels last in memory, one channel too.

    Of one channel both orders are the same bytes, and torch takes the strides for the other order, in which it pools slowly.
    """
    _, channels, height, width = x.shape
    found = x.contiguous(memory_format=torch.channels_last)
    return (
        found.as_strided(
            found.shape, (channels * height * width, 1, channels * width, channels)
        )
        if channels == 1
        else found
    )


def as_loose(stack: Stack) -> Sequence[torch.Tensor]:
    """Return K tensors."""
    if stack.layout_ == LOOSE:
        assert stack.parts_ is not None
        return stack.parts_
    if stack.layout_ == SHARED:
        raise NotStackable(
            "a shared weight is used by another function than a dense layer's"
        )
    return as_dense(stack).unbind(0)


RANDOM = (
    "drop",
    "rand",
    "bernoulli",
    "multinomial",
    "normal_",
    "uniform_",
    "exponential_",
)
"""Parts of the names of functions that draw random numbers: those without a rule would draw for another client."""


@dataclass
class Chance:
    """What clients' random numbers follow from."""

    states: list[int | torch.Tensor]  # of each client's generator: a seed at first
    rows: list[int]  # of each client's batch that are its own, and no filling up
    last: bool  # whether one client's pictures have their channels last in memory


_chances: list[Chance] = []


@contextmanager
def chances(chance: Chance) -> Iterator[None]:
    """Let each client's random functions draw from its own generator; the states are kept in ``chance``."""
    _chances.append(chance)
    try:
        yield
    finally:
        _chances.pop()


def masks(stack: Stack, keep: float) -> torch.Tensor:
    """Return what dropout multiplies (K, B, …) with: of each client the same numbers as if it trained by itself."""
    if not _chances:
        raise NotStackable("random numbers outside of training")
    chance = _chances[-1]
    found = torch.ones(
        (stack.clients, *stack.shape), dtype=stack.dtype, device=stack.device
    )
    for client, (state, rows) in enumerate(
        zip(chance.states, chance.rows, strict=True)
    ):
        if isinstance(state, int):
            torch.manual_seed(state)
        else:
            torch.set_rng_state(state)
        form = (
            torch.channels_last
            if chance.last and stack.dim() == 4
            else torch.contiguous_format
        )
        drawn = torch.empty(
            (rows, *stack.shape[1:]), dtype=stack.dtype, memory_format=form
        )
        found[client, :rows] = drawn.bernoulli_(keep).div_(keep).to(stack.device)
        chance.states[client] = torch.get_rng_state()
    return found


def one_by_one(func: Any, args: Any, kwargs: Any) -> Any:
    """Do a function for each client by itself."""
    if func in FORBIDDEN:
        raise NotStackable(
            f"the model looks at values ({getattr(func, '__name__', func)})"
        )
    name = getattr(func, "__name__", str(func))
    if any(part in name for part in RANDOM):
        raise NotStackable(f"{name} draws random numbers in a way of its own")
    flat, spec = tree.tree_flatten((args, kwargs))
    stacks = [value for value in flat if isinstance(value, Stack)]
    clients = stacks[0].clients
    split = [as_loose(value) if isinstance(value, Stack) else None for value in flat]
    outs = []
    for client in range(clients):
        mine = [
            value if part is None else part[client]
            for value, part in zip(flat, split, strict=True)
        ]
        own_args, own_kwargs = tree.tree_unflatten(mine, spec)
        outs.append(func(*own_args, **own_kwargs))
    if all(out is None for out in outs):
        return None
    flats = [tree.tree_flatten(out) for out in outs]
    joined = []
    for values in zip(*(flat for flat, _ in flats), strict=True):
        if all(isinstance(value, torch.Tensor) for value in values):
            joined.append(loose(values))
        elif all(value == values[0] for value in values):
            joined.append(values[0])
        else:
            raise NotStackable(f"{name} gives clients different values")
    return tree.tree_unflatten(joined, flats[0][1])


FORBIDDEN = {
    *(torch.Tensor.item, torch.Tensor.tolist, torch.Tensor.numpy),
    *(torch.Tensor.__bool__, torch.Tensor.__float__, torch.Tensor.__int__),
}
"""What one client's value would decide for all."""
