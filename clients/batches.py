"""A client's samples as tensors, and the mini-batches of a pass over them.

Legend: N samples, B batch, T characters of a text line.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fedlearn.data.samples import IGNORE, Modality, Samples


@dataclass(frozen=True)
class Tensors:
    """Samples as a model takes them: images float32 in [0, 1], text int64, targets int64."""

    modality: Modality
    x: torch.Tensor  # (N, …)
    y: torch.Tensor  # (N,), or (N, T) for text

    def __len__(self) -> int:
        """Return N."""
        return len(self.y)

    def batch(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return inputs and targets at positions (B,); text is cut where its longest line ends."""
        x = self.x[indices]
        y = self.y[indices]
        if self.modality != "text":
            return x, y
        # A batch of empty lines still has one column.
        longest = max(1, int(ends(y).max()))
        return x[:, :longest], y[:, :longest]


def ends(targets: torch.Tensor) -> torch.Tensor:
    """Return where the lines of targets (N, T) end, (N,): after the last target that counts.

    The lines of LEAF have no other end.
    """
    length = targets.shape[1]
    columns = torch.arange(1, length + 1, device=targets.device)
    last_columns = torch.where(targets != IGNORE, columns, 0)
    return last_columns.amax(1)


def tensors(samples: Samples, modality: Modality, device: str = "cpu") -> Tensors:
    """Return samples as tensors on a device; images of uint8 become float32 in [0, 1]."""
    # A copy: torch would write through an array that it shares.
    x = torch.tensor(samples.x)
    y = torch.from_numpy(samples.y.astype(np.int64))
    if modality == "text":
        x = x.long()
    elif modality == "image" and x.dtype == torch.uint8:
        x = x.float() / 255.0
    else:
        x = x.float()
    return Tensors(modality, x.to(device), y.to(device))


def passes(
    data: Tensors,
    batch_size: int,
    random: np.random.Generator,
    merge_single: bool = False,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield mini-batches for ever, pass after pass, each pass in a new random order.

    batch_size: B, 0 = all samples in one batch. The last batch of a pass may be smaller.
    merge_single: a last batch of one sample joins the batch before it (BatchNorm cannot train
    on one).

    Lines of text are batched with lines of like length, the batches then in random order, so
    that padding costs little.
    """
    for positions in places(data, batch_size, random, merge_single):
        indices = torch.from_numpy(positions)
        yield data.batch(indices.to(data.y.device))


def places(
    data: Tensors,
    batch_size: int,
    random: np.random.Generator,
    merge_single: bool = False,
) -> Iterator[NDArray[np.int64]]:
    """Yield the positions of the samples of each mini-batch of `passes`, (B,)."""
    # Without end: a plan may count steps, which do not stop where a pass does.
    while True:
        yield from _one_pass(data, batch_size or len(data), random, merge_single)


def batches_per_pass(samples: int, batch_size: int, merge_single: bool = False) -> int:
    """Return how many mini-batches one pass over the samples has; arguments as in `passes`."""
    size = batch_size or samples
    batches = -(-samples // size)
    if merge_single and samples > size and samples % size == 1:
        batches -= 1
    return batches


def _one_pass(
    data: Tensors, size: int, random: np.random.Generator, merge_single: bool
) -> list[NDArray[np.int64]]:
    order = random.permutation(len(data))
    if data.modality == "text":
        lengths = ends(data.y).cpu().numpy()
        # Stable, so that lines of one length stay in random order.
        order = order[np.argsort(lengths[order], kind="stable")]
    cuts = list(range(size, len(order), size))
    # BatchNorm has no variance over one sample, so it joins the batch before it.
    if merge_single and cuts and len(order) - cuts[-1] == 1:
        cuts.pop()
    batches = np.split(order, cuts)
    if data.modality == "text":
        # Sorted by length they would come from short to long; the second draw mixes
        # them.
        return [batches[index] for index in random.permutation(len(batches))]
    return batches
