"""Random changes to a batch of training samples, one draw per sample.

Legend: B batch, C channels, H height, W width, T time steps, F features.
The generator decides everything: the same generator state and batch give the same result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from fedlearn.errors import ConfigError
from fedlearn.names import nearest

KINDS: Mapping[str, tuple[str, ...]] = {
    "image": ("flip", "shift", "flip-shift"),
    "series": ("jitter", "scale", "jitter-scale"),
}
"""What may be asked for each modality; text and features have none."""

JITTER = 0.05
"""Standard deviation of the added noise, in units of the data: Um et al.'s 0.05; series here are normalised to 1."""

SCALE = 0.1
"""Standard deviation of the factor around 1: Um et al.'s 0.1."""


def augment(kind: str, x: Tensor, generator: torch.Generator) -> Tensor:
    """Return a changed copy of a batch: images (B, C, H, W) or series (B, T, F), of x's shape,
    dtype and device.

    kind: one of `KINDS`; of two parts joined by "-", the first is applied first. generator: on
    the CPU. Raises ConfigError for an unknown kind.
    """
    if not any(kind in kinds for kinds in KINDS.values()):
        kinds = [name for group in KINDS.values() for name in group]
        raise ConfigError(
            f"unknown augmentation '{kind}'.{nearest(kind, kinds)} Known: {', '.join(kinds)}"
        )
    for part in kind.split("-"):
        x = _PARTS[part](x, generator)
    return x


def flip(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return images (B, C, H, W), each mirrored left to right with probability 1/2.

    Source: Krizhevsky et al., "ImageNet Classification with Deep Convolutional Neural
    Networks", NeurIPS 2012.
    """
    mirrored = torch.rand(len(x), generator=generator).to(x.device) < 0.5
    return torch.where(mirrored[:, None, None, None], x.flip(3), x)


def shift(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return images (B, C, H, W), each moved by whole pixels up to the padding in both
    directions; zeros move in.

    The same as a random crop of the zero-padded image: Krizhevsky et al., NeurIPS 2012; padding
    as in He et al., "Deep Residual Learning for Image Recognition", CVPR 2016: 4 pixels at
    32x32. Sides up to 28 pixels take 2.
    """
    batch, _, height, width = x.shape
    pad = 2 if max(height, width) <= 28 else 4
    moves = torch.randint(0, 2 * pad + 1, (2, batch), generator=generator).to(x.device)
    rows = moves[0, :, None] + torch.arange(
        height, device=x.device
    )  # (B, H): which padded rows a sample keeps
    columns = moves[1, :, None] + torch.arange(width, device=x.device)
    padded = torch.nn.functional.pad(x, (pad, pad, pad, pad)).movedim(
        1, 3
    )  # channels last, for the index below
    samples = torch.arange(batch, device=x.device)[:, None, None]
    return (
        padded[samples, rows[:, :, None], columns[:, None, :]]
        .movedim(3, 1)
        .contiguous()
    )


def jitter(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return series (B, T, F) with independent normal noise of standard deviation `JITTER`
    added to every value.

    Source: Um et al., "Data Augmentation of Wearable Sensor Data for Parkinson's Disease
    Monitoring using Convolutional Neural Networks", ICMI 2017.
    """
    noise = torch.randn(x.shape, generator=generator).to(x)
    return x + JITTER * noise


def scale(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return series (B, T, F), each channel of each sample times one normal factor around 1,
    deviation `SCALE`.

    Source: Um et al., ICMI 2017, see `jitter`.
    """
    factors = 1 + SCALE * torch.randn(len(x), 1, x.shape[2], generator=generator)
    return x * factors.to(x)


_PARTS: Mapping[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "flip": flip,
    "shift": shift,
    "jitter": jitter,
    "scale": scale,
}
