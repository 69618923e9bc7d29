"""Does a model fit its data? Asked before the first round, so that a run cannot fail at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from fedlearn.errors import ModelError
from fedlearn.models.inputs import reason
from fedlearn.models.state import layout

if TYPE_CHECKING:
    from fedlearn.data.samples import Modality

PROBE = 2
"""Samples of the dry run: two, so that a lost or squeezed batch axis shows."""


def check_fit(
    what: str,
    module: object,
    *,
    input_shape: tuple[int, ...],
    classes: int,
    modality: Modality,
) -> None:
    """Raise ModelError unless ``module`` trains, and maps 2 zero samples to (2, K), for text (2, T, K).

    what: names the model in messages. The dry run is in evaluation mode without gradients, so that BatchNorm's
    statistics stay untouched; every layer's own mode is restored afterwards.
    """
    if not isinstance(module, nn.Module):
        raise ModelError(
            f"{what} gave a {type(module).__name__}; its factory must return a torch.nn.Module"
        )
    got = _dry_run(what, module, input_shape, modality)
    wanted = (PROBE, *input_shape, classes) if modality == "text" else (PROBE, classes)
    if got != wanted:
        raise ModelError(
            f"{what} gives {list(got)} for {PROBE} {modality} samples of shape {list(input_shape)}, but the labels need "
            f"{list(wanted)} ({classes} classes); {_fix(got, wanted)}"
        )
    if not layout(module).trained:
        raise ModelError(
            f"{what} has no parameter to train; give it an nn.Parameter with requires_grad=True"
        )


def _dry_run(
    what: str, module: nn.Module, input_shape: tuple[int, ...], modality: Modality
) -> tuple[int, ...]:
    """Return the shape of the output for zero samples; raises ModelError when there is none."""
    modes = [(layer, layer.training) for layer in module.modules()]
    zeros = torch.zeros(
        PROBE, *input_shape, dtype=torch.int64 if modality == "text" else torch.float32
    )
    module.eval()
    try:
        with torch.no_grad():
            output = module(zeros)
    except Exception as error:  # whatever the user's forward raises
        raise ModelError(
            f"{what} fails on {PROBE} {modality} samples, a {zeros.dtype} tensor of shape {list(zeros.shape)}: "
            f"{reason(error)}; make its layers fit this input, or choose another model or data set"
        ) from error
    finally:
        for layer, training in modes:
            layer.training = training
    if not isinstance(output, torch.Tensor) or not output.is_floating_point():
        kind = (
            f"a {output.dtype} tensor"
            if isinstance(output, torch.Tensor)
            else f"a {type(output).__name__}"
        )
        raise ModelError(
            f"{what} returns {kind}; its forward must return one float tensor of class scores"
        )
    return tuple(output.shape)


def _fix(got: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    """Return what to change so that the shapes agree."""
    if got[:-1] == wanted[:-1]:
        return f"make its last layer {wanted[-1]} wide (the argument 'classes' carries that number)"
    if len(wanted) == 3:
        return "return the scores of the next byte at every position"
    return "return one row of scores per sample (flatten or pool before the last layer)"
