"""A torch module's state as the flat vectors of `fedlearn.arrays`, and back.

torch is imported inside the functions, so that a command line may import this file for its names alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedlearn.arrays import Entry, Layout, State
from fedlearn.errors import ModelError

if TYPE_CHECKING:
    import torch
    from torch import nn


def layout(module: nn.Module) -> Layout:
    """Return the order of a module's state: names, shapes and dtypes as in its ``state_dict``.

    An entry is trained when it is a parameter that requires a gradient. A tensor that stands under two names
    (tied weights) has two entries, as in ``state_dict``, and only its first name counts as trained.
    Raises ModelError for a state that is no tensor (``get_extra_state``) or whose dtype no payload carries.
    """
    trained = {
        name for name, parameter in module.named_parameters() if parameter.requires_grad
    }
    first: dict[tuple[int, ...], str] = {}
    entries = []
    for name, tensor in _tensors(module).items():
        identity = (tensor.data_ptr(), *tensor.shape, -1, *tensor.stride())
        tied = first.setdefault(identity, name) if tensor.numel() else name
        dtype = str(tensor.dtype).removeprefix("torch.")
        entries.append(
            Entry(
                name,
                tuple(tensor.shape),
                dtype,
                name in trained,
                "" if tied == name else tied,
            )
        )
    return Layout(tuple(entries))


def read_state(module: nn.Module, layout: Layout) -> State:
    """Return a copy of a module's state: floats (P,) float32 and integers (Q,) int64, on the CPU.

    Narrower and wider floats are cast to float32. Raises ModelError when the module has another layout.
    """
    import torch

    tensors = _matching(module, layout)
    floats = [
        t.reshape(-1).to(torch.float32)
        for t, e in zip(tensors, layout.entries, strict=True)
        if e.is_float
    ]
    integers = [
        t.reshape(-1).to(torch.int64)
        for t, e in zip(tensors, layout.entries, strict=True)
        if not e.is_float
    ]
    return State(
        torch.cat(floats).cpu().numpy() if floats else np.empty(0, np.float32),
        torch.cat(integers).cpu().numpy() if integers else np.empty(0, np.int64),
    )


def write_state(module: nn.Module, layout: Layout, state: State) -> None:
    """Copy a state into a module's own tensors, in place; their dtypes, devices and ties stay as they are.

    Of tied names the first one decides, so that a tie holds even where a lossy codec made the two values differ.
    Nothing in the module refers to ``state`` afterwards. Raises ModelError when state or module do not fit the layout.
    """
    import torch

    if state.floats.shape != (layout.floats,) or state.integers.shape != (
        layout.integers,
    ):
        raise ModelError(
            f"a state of {state.floats.size} floats and {state.integers.size} integers "
            f"does not fit a layout of {layout.floats} and {layout.integers}"
        )
    tensors = _matching(module, layout)
    device = tensors[0].device if tensors else torch.device("cpu")
    sources = {
        True: _tensor(state.floats).to(device),
        False: _tensor(state.integers).to(device),
    }
    at = {True: 0, False: 0}
    seen = set()
    for entry, tensor in zip(layout.entries, tensors, strict=True):
        start = at[entry.is_float]
        at[entry.is_float] += entry.size
        identity = (tensor.data_ptr(), entry.shape, tensor.stride(), entry.dtype)
        if entry.size and identity not in seen:
            seen.add(identity)
            tensor.copy_(
                sources[entry.is_float][start : start + entry.size].view(entry.shape)
            )


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return the named tensors of a module, detached, sharing its memory."""
    import torch

    # Not cached: moving a module, or a layer that rebinds a buffer, would leave a cache of stale tensors.
    tensors = module.state_dict()
    for name, value in tensors.items():
        if not isinstance(value, torch.Tensor):
            raise ModelError(
                f"state '{name}' of {type(module).__name__} is a {type(value).__name__}, which no payload carries; "
                "keep it in a tensor buffer instead of get_extra_state"
            )
    return tensors


def _matching(module: nn.Module, layout: Layout) -> list[torch.Tensor]:
    """Return a module's tensors in the order of a layout; raises ModelError at the first one that differs."""
    tensors = _tensors(module)
    if len(tensors) != len(layout.entries):
        raise ModelError(
            f"{type(module).__name__} has {len(tensors)} tensors; the layout has {len(layout.entries)}"
        )
    for (name, tensor), entry in zip(tensors.items(), layout.entries, strict=True):
        if (
            name != entry.name
            or tensor.shape != entry.shape
            or tensor.is_floating_point() != entry.is_float
        ):
            raise ModelError(
                f"tensor '{name}' {tuple(tensor.shape)} {tensor.dtype} of {type(module).__name__} "
                f"stands where the layout has '{entry.name}' {entry.shape} {entry.dtype}"
            )
    return list(tensors.values())


def _tensor(vector: np.ndarray[tuple[int], np.dtype[np.generic]]) -> torch.Tensor:
    """Return a tensor that shares a vector's memory where torch can: not where the vector is read-only."""
    import torch

    return torch.from_numpy(vector if vector.flags.writeable else vector.copy())
