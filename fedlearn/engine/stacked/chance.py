"""Random numbers of stacked clients: each draws from its own generator, as when alone.

Legend: K clients, B batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from fedlearn.engine.stacked.stack import NotStackable, StackedTensor


@dataclass
class Chance:
    """The state of each client's generator, and the shape of what it draws."""

    # Generators' states; at first an int, the seed.
    states: list[int | torch.Tensor]
    # Samples of each client's mini-batch, without padding.
    rows: list[int]
    # Whether pictures of one client have their channels last in memory.
    channels_last: bool


# Those of the passes that go on now; rules reach them by no argument.
_chances: list[Chance] = []


@contextmanager
def chances(chance: Chance) -> Iterator[None]:
    """Let random functions inside draw from ``chance``, which keeps the new states."""
    _chances.append(chance)
    try:
        yield
    finally:
        _chances.pop()


def masks(stack: StackedTensor, keep: float) -> torch.Tensor:
    """Return what dropout multiplies (K, B, …) with. keep: the share that stays.

    Each client has the same numbers as if it trained by itself. Raises NotStackable
    outside of `chances`.
    """
    if not _chances:
        raise NotStackable("random numbers outside of training")
    chance = _chances[-1]
    shape = (stack.clients, *stack.shape)
    mask = torch.ones(shape, dtype=stack.dtype, device=stack.device)
    # One client's numbers are drawn in the order of its tensor in memory.
    order = torch.contiguous_format
    if chance.channels_last and stack.dim() == 4:
        order = torch.channels_last
    for client, rows in enumerate(chance.rows):
        _set_generator(chance.states[client])
        numbers = torch.empty(
            (rows, *stack.shape[1:]), dtype=stack.dtype, memory_format=order
        )
        mask[client, :rows] = numbers.bernoulli_(keep).div_(keep).to(stack.device)
        chance.states[client] = torch.get_rng_state()
    return mask


def _set_generator(state: int | torch.Tensor) -> None:
    if isinstance(state, int):
        torch.manual_seed(state)
    else:
        torch.set_rng_state(state)
