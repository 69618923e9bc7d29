"""What a model needs of its data and options: each check says it in one sentence.

Legend: C channels, H height, W width, T time steps or characters, F features.
"""

from __future__ import annotations

from fedlearn.errors import ModelError

# For the hints of messages, so that a wrong choice leads to a right one.
IMAGE_MODELS = "cnn, cnn-small, lenet, resnet-small, mobilenet-small"


def image(
    model: str, input_shape: tuple[int, ...], minimum: int = 1
) -> tuple[int, int, int]:
    """Return (C, H, W).

    Raises ModelError unless samples are images of at least ``minimum`` pixels a side.
    """
    if len(input_shape) != 3:
        raise ModelError(
            f"model '{model}' takes images (channels, height, width), "
            f"but a sample has the shape {list(input_shape)}; "
            "use 'lstm-sensor' for series, 'lstm-char' or 'transformer-char' for text, "
            "'2nn' for features"
        )
    channels, height, width = input_shape
    if min(height, width) < minimum:
        raise ModelError(
            f"model '{model}' needs images of at least {minimum}x{minimum} pixels; "
            f"these are {height}x{width}"
        )
    return channels, height, width


def series(model: str, input_shape: tuple[int, ...]) -> tuple[int, int]:
    """Return (T, F); raises ModelError unless samples are series."""
    if len(input_shape) != 2:
        raise ModelError(
            f"model '{model}' takes series (time steps, features), "
            f"but a sample has the shape {list(input_shape)}; "
            f"use one of {IMAGE_MODELS} for images, 'lstm-char' for text, "
            "'2nn' for features"
        )
    return input_shape[0], input_shape[1]


def text(model: str, input_shape: tuple[int, ...]) -> int:
    """Return T; raises ModelError unless samples are lines of text."""
    if len(input_shape) != 1:
        raise ModelError(
            f"model '{model}' takes text (characters), "
            f"but a sample has the shape {list(input_shape)}; "
            f"use one of {IMAGE_MODELS} for images, 'lstm-sensor' for series"
        )
    return input_shape[0]


def whole(model: str, option: str, value: object, minimum: int = 1) -> int:
    """Return ``value``; raises ModelError unless it is a whole number >= ``minimum``."""
    # To Python True is a whole number; as an option it is a mistake.
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise ModelError(
            f"model '{model}': '{option}' must be a whole number of at least {minimum}, "
            f"not {value!r}"
        )
    return value
