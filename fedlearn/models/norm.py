"""The normalisation that a deep convolutional model uses between its layers."""

from __future__ import annotations

from math import gcd

from torch import nn

from fedlearn.errors import ModelError
from fedlearn.names import nearest

KINDS = ("group", "batch")

# Groups of GroupNorm; fewer where they do not divide the channels.
GROUPS = 8


def check(model: str, kind: object) -> str:
    """Return ``kind``; raises ModelError unless it is one of `KINDS`."""
    if kind not in KINDS:
        names = " or ".join(f"'{name}'" for name in KINDS)
        hint = nearest(str(kind), KINDS)
        raise ModelError(
            f"model '{model}': 'norm' must be {names}, not {kind!r}.{hint}"
        )
    return str(kind)


def normalise(kind: str, channels: int) -> nn.Module:
    """Return a normalisation of (B, C, H, W) with 2·C parameters.

    "group" is GroupNorm over 8 groups (fewer where 8 does not divide C): Wu and He,
    "Group Normalization", ECCV 2018. It has no running statistics, which clients with
    different labels would pull apart: Hsieh et al., "The Non-IID Data Quagmire of
    Decentralized Machine Learning", ICML 2020. "batch" is BatchNorm: Ioffe and Szegedy,
    ICML 2015.
    """
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    # GroupNorm refuses a number of groups that does not divide the channels.
    return nn.GroupNorm(gcd(GROUPS, channels), channels)
