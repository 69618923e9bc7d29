"""Random changes to a batch of training samples, one draw for each sample.

The generator decides everything: the same generator state and batch give the same result.

Legend: B batch, C channels, H height, W width, T time steps, F features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from fedlearn.errors import ConfigError
from fedlearn.names import nearest

# The augmentations of each modality; text and features have none.
KINDS: Mapping[str, tuple[str, ...]] = {
    "image": ("flip", "shift", "flip-shift"),
    "series": ("jitter", "scale", "jitter-scale"),
}

# Standard deviation of the added noise, in units of the data: Um et al.'s 0.05. Series here are
# normalised to 1.
JITTER = 0.05

# Standard deviation of the factor around 1: Um et al.'s 0.1.
SCALE = 0.1

# Padding of `shift` in pixels, for images of at most 28 x 28, and for larger ones. He et al.
# take 4 at 32 x 32.
_SMALL_SIDE = 28
_SMALL_PAD = 2
_PAD = 4


def augment(kind: str, x: Tensor, generator: torch.Generator) -> Tensor:
    """Return a changed copy of a batch, of the same shape, dtype and device.

    kind: one of `KINDS`; of two parts joined by "-", the first is applied first. x: images (B,
    C, H, W) or series (B, T, F). generator: on the CPU. Raises ConfigError for an unknown kind.
    """
    kinds = [name for names in KINDS.values() for name in names]
    if kind not in kinds:
        raise ConfigError(
            f"unknown augmentation '{kind}'.{nearest(kind, kinds)} "
            f"Known: {', '.join(kinds)}"
        )
    for part in kind.split("-"):
        x = _PARTS[part](x, generator)
    return x


def flip(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return images (B, C, H, W), each mirrored left to right with probability 1/2.

    Source: Krizhevsky et al., "ImageNet Classification with Deep Convolutional Neural Networks"
    (NeurIPS 2012).
    """
    # Drawn on the CPU even for a GPU's batch: the same draws on every device.
    chances = torch.rand(len(x), generator=generator).to(x.device)
    is_mirrored = (chances < 0.5)[:, None, None, None]
    return torch.where(is_mirrored, x.flip(3), x)


def shift(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return images (B, C, H, W), each moved by whole pixels in both directions; zeros move in.

    The largest move is the padding. The result is that of a random crop of the zero-padded
    image: Krizhevsky et al. (NeurIPS 2012), with the padding of He et al., "Deep Residual
    Learning for Image Recognition" (CVPR 2016).
    """
    batch, _, height, width = x.shape
    pad = _SMALL_PAD if max(height, width) <= _SMALL_SIDE else _PAD
    moves = torch.randint(0, 2 * pad + 1, (2, batch), generator=generator).to(x.device)
    # Which padded rows (B, H) and columns (B, W) a sample keeps.
    rows = moves[0, :, None] + torch.arange(height, device=x.device)
    columns = moves[1, :, None] + torch.arange(width, device=x.device)
    padded = torch.nn.functional.pad(x, (pad, pad, pad, pad))
    # Channels last, so that one index picks a pixel with all of its channels.
    pixels = padded.movedim(1, 3)
    samples = torch.arange(batch, device=x.device)[:, None, None]
    moved = pixels[samples, rows[:, :, None], columns[:, None, :]]
    return moved.movedim(3, 1).contiguous()


def jitter(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return series (B, T, F) with normal noise of deviation `JITTER` on every value.

    Source: Um et al., "Data Augmentation of Wearable Sensor Data for Parkinson's Disease
    Monitoring using Convolutional Neural Networks" (ICMI 2017).
    """
    noise = torch.randn(x.shape, generator=generator).to(x)
    return x + JITTER * noise


def scale(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return series (B, T, F), each channel of each sample times a normal factor around 1.

    The factor's deviation is `SCALE`. Source: Um et al. (ICMI 2017), see `jitter`.
    """
    batch, _, channels = x.shape
    noise = torch.randn(batch, 1, channels, generator=generator)
    factors = 1 + SCALE * noise
    return x * factors.to(x)


_PARTS: Mapping[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "flip": flip,
    "shift": shift,
    "jitter": jitter,
    "scale": scale,
}
