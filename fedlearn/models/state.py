"""A torch module's state as the flat vectors of `fedlearn.arrays`, and back.

torch is imported inside the functions, so that a command line may import this file for
its names alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedlearn.arrays import Entry, Layout, State
from fedlearn.errors import ModelError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import nn


def layout(module: nn.Module) -> Layout:
    """Return the order of a module's state, as in its ``state_dict``.

    An entry is trained when it is a parameter that requires a gradient. A tensor that
    stands under two names (tied weights) has two entries, as in ``state_dict``, and only
    its first name counts as trained. Raises ModelError for a state that is no tensor
    (``get_extra_state``) or whose dtype no payload carries, and for a trained weight that
    the state does not hold.
    """
    parameters = module.named_parameters()
    trained = {name for name, parameter in parameters if parameter.requires_grad}
    _check_held(module, trained)

    # Tied weights are one memory under two names, as parameters or as buffers.
    first_names: dict[tuple[int, ...], str] = {}
    entries = []
    for name, tensor in _tensors(module).items():
        first_name = name
        # Tensors without values share no memory, though their addresses may be equal.
        if tensor.numel():
            # -1 stands between the shape and the strides, which may be of any length.
            identity = (tensor.data_ptr(), *tensor.shape, -1, *tensor.stride())
            first_name = first_names.setdefault(identity, name)

        entry = Entry(
            name=name,
            shape=tuple(tensor.shape),
            dtype=str(tensor.dtype).removeprefix("torch."),
            trained=name in trained,
            same_as="" if first_name == name else first_name,
        )
        entries.append(entry)
    return Layout(tuple(entries))


def _check_held(module: nn.Module, trained: set[str]) -> None:
    """Raise ModelError for trained weights, by name, that a module's state does not hold."""
    tensors = _tensors(module)
    memory = {tensor.data_ptr() for tensor in tensors.values()}
    hidden = []
    for name, parameter in module.named_parameters():
        # A state may name a weight otherwise; a copy of it would not be written back.
        is_held = not parameter.numel() or parameter.data_ptr() in memory
        if name in trained and (name not in tensors or not is_held):
            hidden.append(name)
    if hidden:
        names = ", ".join(hidden[:5])
        raise ModelError(
            f"{type(module).__name__} trains {names}, which its state_dict does not hold: "
            "no payload carries it, and it would pass from client to client; keep it in "
            "state_dict, or set requires_grad = False"
        )


def read_state(module: nn.Module, layout: Layout) -> State:
    """Return a copy of a module's state: floats (P,) float32 and integers (Q,) int64.

    The copy is on the CPU; narrower and wider floats are cast to float32. Raises
    ModelError when the module has another layout.
    """
    import torch

    floats = []
    integers = []
    tensors = _matching(module, layout)
    for tensor, entry in zip(tensors, layout.entries, strict=True):
        if entry.is_float:
            floats.append(tensor.reshape(-1).to(torch.float32))
        else:
            integers.append(tensor.reshape(-1).to(torch.int64))

    # torch concatenates at least one tensor; a model may lack either kind.
    float_vector = np.empty(0, np.float32)
    if floats:
        float_vector = torch.cat(floats).cpu().numpy()
    integer_vector = np.empty(0, np.int64)
    if integers:
        integer_vector = torch.cat(integers).cpu().numpy()
    return State(float_vector, integer_vector)


def write_state(module: nn.Module, layout: Layout, state: State) -> None:
    """Copy a state into a module's own tensors, in place.

    Their dtypes, devices and ties stay as they are. Of tied names the first one decides,
    so that a tie holds even where a lossy codec made the two values differ. Nothing in
    the module refers to ``state`` afterwards. Raises ModelError when state or module do
    not fit the layout.
    """
    import torch

    layout.check(state)
    tensors = _matching(module, layout)
    device = tensors[0].device if tensors else torch.device("cpu")
    # To the device in one transfer each, not tensor by tensor.
    floats = _tensor(state.floats).to(device)
    integers = _tensor(state.integers).to(device)

    # A tensor under two names is written once, by its first name.
    written = set()
    for (entry, start), tensor in zip(layout.starts(), tensors, strict=True):
        identity = (tensor.data_ptr(), entry.shape, tensor.stride(), entry.dtype)
        if not entry.size or identity in written:
            continue
        written.add(identity)
        vector = floats if entry.is_float else integers
        values = vector[start : start + entry.size]
        tensor.copy_(values.view(entry.shape))


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return the named tensors of a module, detached, sharing its memory.

    Raises ModelError for a state that is no tensor.
    """
    import torch

    # Not cached: moving a module, or a layer that rebinds a buffer, would leave a cache
    # of stale tensors.
    tensors = module.state_dict()
    for name, value in tensors.items():
        if not isinstance(value, torch.Tensor):
            raise ModelError(
                f"state '{name}' of {type(module).__name__} is a "
                f"{type(value).__name__}, which no payload carries; "
                "keep it in a tensor buffer instead of get_extra_state"
            )
    return tensors


def _matching(module: nn.Module, layout: Layout) -> list[torch.Tensor]:
    """Return a module's tensors in the order of a layout.

    Raises ModelError at the first one that differs.
    """
    tensors = _tensors(module)
    kind = type(module).__name__
    if len(tensors) != len(layout.entries):
        raise ModelError(
            f"{kind} has {len(tensors)} tensors; the layout has {len(layout.entries)}"
        )

    for (name, tensor), entry in zip(tensors.items(), layout.entries, strict=True):
        if (
            name != entry.name
            or tensor.shape != entry.shape
            or tensor.is_floating_point() != entry.is_float
        ):
            raise ModelError(
                f"tensor '{name}' {tuple(tensor.shape)} {tensor.dtype} of {kind} "
                f"stands where the layout has "
                f"'{entry.name}' {entry.shape} {entry.dtype}"
            )
    return list(tensors.values())


def _tensor(vector: NDArray[np.generic]) -> torch.Tensor:
    """Return a tensor that shares a vector's memory where torch can."""
    import torch

    # torch warns of memory that it may not write.
    if vector.flags.writeable:
        return torch.from_numpy(vector)
    return torch.from_numpy(vector.copy())
