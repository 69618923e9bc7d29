"""What a model asks of its data and options, said in one sentence when it does not get it."""

from __future__ import annotations

from fedlearn.errors import ModelError

IMAGE_MODELS = "cnn, cnn-small, lenet, resnet-small, mobilenet-small"


def reason(error: Exception) -> str:
    """Return an error's kind and the first line of its text: torch's own texts may run over many."""
    lines = str(error).strip().splitlines()
    return (
        f"{type(error).__name__}: {lines[0].strip()}" if lines else type(error).__name__
    )


def image(
    model: str, input_shape: tuple[int, ...], least: int = 1
) -> tuple[int, int, int]:
    """Return (C, H, W); raises ModelError unless the samples are images of at least ``least`` pixels a side."""
    if len(input_shape) != 3:
        raise ModelError(
            f"model '{model}' takes images (channels, height, width), but a sample has the shape {list(input_shape)}; "
            "use 'lstm-sensor' for series, 'lstm-char' or 'transformer-char' for text, '2nn' for features"
        )
    channels, height, width = input_shape
    if min(height, width) < least:
        raise ModelError(
            f"model '{model}' needs images of at least {least}x{least} pixels; these are {height}x{width}"
        )
    return channels, height, width


def series(model: str, input_shape: tuple[int, ...]) -> tuple[int, int]:
    """Return (T, F); raises ModelError unless the samples are series."""
    if len(input_shape) != 2:
        raise ModelError(
            f"model '{model}' takes series (time steps, features), but a sample has the shape {list(input_shape)}; "
            f"use one of {IMAGE_MODELS} for images, 'lstm-char' for text, '2nn' for features"
        )
    return input_shape[0], input_shape[1]


def text(model: str, input_shape: tuple[int, ...]) -> int:
    """Return T; raises ModelError unless the samples are lines of text."""
    if len(input_shape) != 1:
        raise ModelError(
            f"model '{model}' takes text (characters), but a sample has the shape {list(input_shape)}; "
            f"use one of {IMAGE_MODELS} for images, 'lstm-sensor' for series"
        )
    return input_shape[0]


def whole(model: str, option: str, value: object, least: int = 1) -> int:
    """Return ``value``; raises ModelError unless it is a whole number of at least ``least``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ModelError(
            f"model '{model}': '{option}' must be a whole number of at least {least}, not {value!r}"
        )
    return value
