"""Transforms of pictures, uint8 (height, width) or (height, width, channels).

They draw from torch's generator, as the original's do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch


class Compose:
    """Several transforms, one after another."""

    def __init__(self, transforms: Sequence[Callable[[Any], Any]]) -> None:
        """Take the transforms."""
        self.transforms = transforms

    def __call__(self, picture: Any) -> Any:
        """Return what the last of them gives."""
        for transform in self.transforms:
            picture = transform(picture)
        return picture


class ToTensor:
    """A picture as float32 (channels, height, width), from 0 to 1."""

    def __call__(self, picture: Any) -> torch.Tensor:
        """Return the tensor."""
        pixels = np.atleast_3d(np.asarray(picture))
        planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))
        return torch.from_numpy(planes).float() / 255


class Normalize:
    """Each channel less its mean, over its deviation."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Take both for each channel."""
        self.mean = torch.tensor(mean).view(-1, 1, 1)
        self.std = torch.tensor(std).view(-1, 1, 1)

    def __call__(self, picture: torch.Tensor) -> torch.Tensor:
        """Return the tensor."""
        return (picture - self.mean) / self.std


class RandomCrop:
    """A square of a picture that is padded with nought."""

    def __init__(self, size: int, padding: int = 0) -> None:
        """Take the square's side and the padding, both in pixels."""
        self.size = size
        self.padding = padding

    def __call__(self, picture: Any) -> Any:
        """Return the square."""
        pixels = np.asarray(picture)
        frame = [(self.padding, self.padding)] * 2 + [(0, 0)] * (pixels.ndim - 2)
        padded = np.pad(pixels, frame)
        room = padded.shape[0] - self.size + 1
        top = int(torch.randint(room, ()))
        start = int(torch.randint(room, ()))
        return padded[top : top + self.size, start : start + self.size]


class RandomHorizontalFlip:
    """A picture or its mirror's, by a throw."""

    def __init__(self, p: float = 0.5) -> None:
        """Take the mirror's probability."""
        self.p = p

    def __call__(self, picture: Any) -> Any:
        """Return the picture."""
        pixels = np.asarray(picture)
        return pixels[:, ::-1] if float(torch.rand(1)) < self.p else pixels


functional = SimpleNamespace(to_tensor=ToTensor())
