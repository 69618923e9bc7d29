"""Whether a model fits its data: checked before the first round, so that no run fails late."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from fedlearn.errors import ModelError, reason_of
from fedlearn.models.state import layout

if TYPE_CHECKING:
    from fedlearn.data.samples import Modality

# Samples of the dry run: two, so that a lost or squeezed batch axis shows.
PROBE = 2


def check_fit(
    label: str,
    module: object,
    *,
    input_shape: tuple[int, ...],
    classes: int,
    modality: Modality,
) -> None:
    """Raise ModelError unless a module trains, and maps 2 zero samples to (2, K).

    For text it must give (2, T, K). label: names the model in messages. The dry run is in
    evaluation mode without gradients, so that BatchNorm's statistics stay untouched;
    every layer's own mode is restored afterwards.
    """
    if not isinstance(module, nn.Module):
        raise ModelError(
            f"{label} gave a {type(module).__name__}; "
            "its factory must return a torch.nn.Module"
        )

    output_shape = _dry_run(label, module, input_shape, modality)
    expected_shape: tuple[int, ...] = (PROBE, classes)
    if modality == "text":
        expected_shape = (PROBE, *input_shape, classes)
    if output_shape != expected_shape:
        raise ModelError(
            f"{label} gives {list(output_shape)} "
            f"for {PROBE} {modality} samples of shape {list(input_shape)}, "
            f"but the labels need {list(expected_shape)} ({classes} classes); "
            f"{_fix(output_shape, expected_shape)}"
        )

    # After the dry run, because torch's lazy layers have no shapes before it.
    if not layout(module).trained:
        raise ModelError(
            f"{label} has no parameter to train; "
            "give it an nn.Parameter with requires_grad=True"
        )


def _dry_run(
    label: str, module: nn.Module, input_shape: tuple[int, ...], modality: Modality
) -> tuple[int, ...]:
    """Return the shape of the output for zero samples; raises ModelError without one."""
    modes = [(layer, layer.training) for layer in module.modules()]
    # Text is looked up in an embedding, which takes whole numbers.
    dtype = torch.int64 if modality == "text" else torch.float32
    zeros = torch.zeros(PROBE, *input_shape, dtype=dtype)
    # No update of BatchNorm's statistics, and no dropout.
    module.eval()
    try:
        with torch.no_grad():
            output = module(zeros)
    # The module may be a user's, whose forward may raise anything.
    except Exception as error:
        raise ModelError(
            f"{label} fails on {PROBE} {modality} samples, "
            f"a {zeros.dtype} tensor of shape {list(zeros.shape)}: {reason_of(error)}; "
            "make its layers fit this input, or choose another model or data set"
        ) from error
    finally:
        for layer, training in modes:
            # Not by train(), which sets all layers alike: a user may keep one in
            # evaluation mode.
            layer.training = training
    if not isinstance(output, torch.Tensor):
        raise _wrong_output(label, f"a {type(output).__name__}")
    if not output.is_floating_point():
        raise _wrong_output(label, f"a {output.dtype} tensor")
    return tuple(output.shape)


def _wrong_output(label: str, kind: str) -> ModelError:
    """Return the error for an output that is no scores."""
    return ModelError(
        f"{label} returns {kind}; "
        "its forward must return one float tensor of class scores"
    )


def _fix(output_shape: tuple[int, ...], expected_shape: tuple[int, ...]) -> str:
    """Return what to change so that the shapes agree."""
    if output_shape[:-1] == expected_shape[:-1]:
        return (
            f"make its last layer {expected_shape[-1]} wide "
            "(the argument 'classes' carries that number)"
        )
    if len(expected_shape) == 3:
        return "return the scores of the next byte at every position"
    return "return one row of scores per sample (flatten or pool before the last layer)"
