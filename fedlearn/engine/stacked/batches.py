"""The samples of stacked clients in one tensor, and the mini-batches that each draws.

Legend: K clients, B batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray

from fedlearn.clients.augment import augment
from fedlearn.clients.batches import Tensors, places
from fedlearn.data.samples import IGNORE
from fedlearn.plan import Plan
from fedlearn.seeds import generator, torch_generator

# Positions of samples among those of their client, (B,).
Positions = NDArray[np.int64]


@dataclass(frozen=True)
class ForwardPass:
    """One mini-batch of each of the clients ``first`` to ``last`` - 1 of a stack."""

    first: int
    last: int
    # One entry a client; shorter ones are padded by `StackedBatches.tensors`.
    positions: Sequence[Positions]


class StackedBatches:
    """Mini-batches of clients, the same as each draws by itself."""

    def __init__(
        self,
        plan: Plan,
        numbers: Sequence[int],
        data: Sequence[Tensors],
        normalises: bool,
    ) -> None:
        """Take the clients' numbers and samples.

        normalises: the model does so over its mini-batches, which must not be padded.
        """
        self.plan = plan
        self.normalises = normalises
        self.x = torch.cat([tensors.x for tensors in data])
        self.y = torch.cat([tensors.y for tensors in data])
        # Where each client's samples begin.
        self.offsets = np.cumsum([0, *(len(tensors) for tensors in data)])
        self._positions = [
            places(
                tensors,
                plan.batch_size,
                generator(plan.seed, "batches", plan.round, number),
                normalises,
            )
            for number, tensors in zip(numbers, data, strict=True)
        ]
        # The generators' seeds are those of `fedlearn.clients.train`.
        self._augment: list[torch.Generator] = []
        if plan.augment:
            self._augment = [
                torch_generator(plan.seed, "augment", plan.round, number)
                for number in numbers
            ]

    def passes(self, active: int) -> list[ForwardPass]:
        """Return the forward passes of a step of the first ``active`` clients.

        There is one for each mini-batch that a step accumulates, and for models that
        normalise one for each run of mini-batches of a size.
        """
        step = [
            [next(positions) for positions in self._positions[:active]]
            for _ in range(self.plan.accumulate)
        ]
        if not self.normalises:
            return [ForwardPass(0, active, batch) for batch in step]
        return [forward for batch in step for forward in _by_size(batch)]

    def tensors(self, forward: ForwardPass) -> tuple[torch.Tensor, torch.Tensor]:
        """Return inputs (K, B, …) and targets (K, B).

        Smaller mini-batches are padded with samples whose targets do not count.
        """
        shape = (len(forward.positions), max(map(len, forward.positions)))
        rows = np.zeros(shape, np.int64)
        padding = np.ones(shape, bool)
        for k, positions in enumerate(forward.positions):
            rows[k, : len(positions)] = positions
            padding[k, : len(positions)] = False
        rows += self.offsets[forward.first : forward.last, None]
        index = torch.from_numpy(rows).to(self.y.device)
        x = self.x[index]
        y = self.y[index]
        # The usual case is no padding; it saves a copy of the targets.
        if padding.any():
            y = torch.where(torch.from_numpy(padding).to(y.device), IGNORE, y)
        if self._augment:
            self._augment_in_place(x, forward)
        return x, y

    def _augment_in_place(self, x: torch.Tensor, forward: ForwardPass) -> None:
        for k, positions in enumerate(forward.positions):
            # Padding is left out: it would draw numbers that a client alone does not.
            count = len(positions)
            random = self._augment[forward.first + k]
            x[k, :count] = augment(self.plan.augment, x[k, :count], random)


def _by_size(batch: Sequence[Positions]) -> list[ForwardPass]:
    """Return a pass for each run of clients whose mini-batches have the same size."""
    # Clients stand in the order of their samples, so that runs are long.
    passes = []
    first = 0
    for _, same_size in groupby(batch, key=len):
        positions = list(same_size)
        last = first + len(positions)
        passes.append(ForwardPass(first, last, positions))
        first = last
    return passes
