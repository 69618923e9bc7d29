"""A stand-in for `torchvision`, whose wheels bring a GPU's libraries: its transforms."""

from torchvision import transforms

__all__ = ["transforms"]
