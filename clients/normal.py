"""Layers that normalise over a mini-batch: they cannot train on one sample.

BatchNorm over features has no variance of one sample. Over pictures it has one, of the
pixels, so whether a model can train on one sample is seen when it tries.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator

import torch
from torch import nn

from fedlearn.errors import ClientError

_BATCH_NORM = nn.modules.batchnorm._BatchNorm

# How torch begins what it says of a batch of one.
_TORCH_WORDS = "Expected more than 1 value per channel"

_FIX = (
    "set train.batch_size to 2 or more, or use GroupNorm or LayerNorm in the model "
    "(norm = 'group' in ours)"
)


def normalises(module: nn.Module) -> bool:
    """Tell whether a module normalises over its batches, so that none may have one sample only."""
    return any(isinstance(layer, _BATCH_NORM) for layer in module.modules())


def single_sample_fault(module: nn.Module, sample: torch.Tensor) -> str:
    """Return why a module cannot train on one sample (1, …), and the fix; "" where it can.

    Whatever else is wrong with the model is not looked at. A copy is tried, so that no
    statistics of it change.
    """
    if not normalises(module):
        return ""
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            copy.deepcopy(module).train()(sample)
    # The model may be the user's code. Anything else fails its clients, in their round.
    except Exception as error:
        if _is_single(error):
            return f"{_layer(module)} cannot normalise over one sample; {_FIX}"
    return ""


@contextlib.contextmanager
def single_samples_named(module: nn.Module, client: int) -> Iterator[None]:
    """Raise ClientError that says what to change where a mini-batch has one sample."""
    try:
        yield
    except ValueError as error:
        if not _is_single(error):
            raise
        raise ClientError(
            f"client {client}: a mini-batch of one sample, over which "
            f"{_layer(module)} cannot normalise; {_FIX}, or give each client two samples"
        ) from error


def _is_single(error: Exception) -> bool:
    return isinstance(error, ValueError) and str(error).startswith(_TORCH_WORDS)


def _layer(module: nn.Module) -> str:
    """Return the words for the first layer that normalises over batches."""
    for name, layer in module.named_modules():
        if isinstance(layer, _BATCH_NORM):
            return f"the layer '{name}' ({type(layer).__name__})"
    return "a layer"
