"""A mini-batch in parts, where it does not fit into memory whole.

It is the same step, computed piece by piece.

When memory runs out, the parts are halved and the step is done again, down to one sample at a
time. A step's gradient is the mean over the batch's targets, so parts weighted by their targets
add up to it. Two things differ: the order of float sums (below 1e-6 in the tests), and, with
several layers of dropout, which values are dropped. So the result is no longer the same bits,
and callers record ``halvings``.

A model that normalises over the batch is another model with smaller batches; its work is declined.

Legend: B batch, T characters of a text line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from fedlearn.data.samples import IGNORE
from fedlearn.errors import ClientError

T = TypeVar("T")

# How torch, its allocators, and the libraries below it say that memory ran out: mostly by a plain
# RuntimeError.
WORDS = ("out of memory", "can't allocate memory", "alloc_failed")


class NoRoom(ClientError):
    """The work does not fit into this device's memory: it is declined, and has not failed."""


@dataclass
class Room:
    """How much of a mini-batch is computed at once: 1 / 2**halvings of its samples, rounded up."""

    halvings: int = 0

    def size(self, rows: int) -> int:
        """Return how many of B samples are computed at once."""
        # Shifting the negative number rounds up, so a part never has no sample.
        return -(-rows >> self.halvings)

    def parts(
        self, x: torch.Tensor, y: torch.Tensor
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, float]]:
        """Yield inputs, targets (B,) or (B, T) and share of the targets of each part."""
        size = self.size(len(y))
        if size >= len(y):
            yield x, y, 1.0
            return
        # A batch of empty lines has no targets.
        targets = max(1, int((y != IGNORE).sum()))
        for start in range(0, len(y), size):
            part = y[start : start + size]
            # By targets, not by samples: a mean over a batch weights each target alike.
            share = int((part != IGNORE).sum()) / targets
            yield x[start : start + size], part, share

    def within(
        self,
        module: nn.Module,
        batches: Sequence[tuple[torch.Tensor, torch.Tensor]],
        step: Callable[[], T],
    ) -> T:
        """Return what ``step`` returns for some mini-batches, halving their parts until it fits.

        Raises NoRoom where halving does not help, or would change what is learned.
        """
        # Halvings from an earlier round apply from the start, before any error.
        if self.halvings:
            _check_separable(module)
        while True:
            # The step is done again with the same dropout as far as the parts allow.
            state = torch.get_rng_state()
            try:
                return step()
            except (MemoryError, RuntimeError) as error:
                if not ran_out(error):
                    raise
            # Only here, behind the handler: inside it the error holds every tensor of the step.
            if self.size(max(len(y) for _, y in batches)) <= 1:
                raise NoRoom("memory: not even one sample at a time fits")
            _check_separable(module)
            torch.set_rng_state(state)
            if batches[0][0].is_cuda:
                # Blocks cached for the larger parts would not fit the smaller ones.
                torch.cuda.empty_cache()
            self.halvings += 1


def ran_out(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out."""
    if isinstance(error, MemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    text = str(error).lower()
    return any(word in text for word in WORDS)


def _check_separable(module: nn.Module) -> None:
    """Raise NoRoom for a model in whose layers the samples of a batch influence each other."""
    for name, layer in module.named_modules():
        if _normalises_over_batch(layer):
            raise NoRoom(
                f"memory: its batches do not fit, and layer '{name}' "
                f"({type(layer).__name__}) needs them whole"
            )


def _normalises_over_batch(layer: nn.Module) -> bool:
    # A layer in evaluation mode uses its running statistics, sample by sample.
    if not isinstance(layer, nn.modules.batchnorm._NormBase) or not layer.training:
        return False
    # InstanceNorm looks at one sample at a time, unless it averages them for later.
    is_batch_norm = isinstance(layer, nn.modules.batchnorm._BatchNorm)
    return is_batch_norm or layer.track_running_stats
