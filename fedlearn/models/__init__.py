"""Models by name or import path, built the same on every machine, and their state as flat vectors.

Legend: B batch, C channels, H height, W width, T time steps or characters, F features,
K classes.

Inputs: images (B, C, H, W) float32 in [0, 1]; series (B, T, F) float32; features (B, F)
float32; text (B, T) int64 bytes, 0 is padding. Outputs: (B, K), and (B, T, K) for text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from fedlearn.errors import ModelError, UserError, reason_of
from fedlearn.models.state import layout, read_state, write_state
from fedlearn.names import Named, call, find
from fedlearn.seeds import derive

if TYPE_CHECKING:
    from torch import nn

    from fedlearn.data.samples import Modality

__all__ = ["BINARY", "MODELS", "SHAPES", "build", "layout", "read_state", "write_state"]

# Options that no factory takes: the shapes of a model's tensors, by name, and whether its
# inner layers compute with binary weights.
SHAPES = "shapes"
BINARY = "binary"

# The registered models; each factory takes ``input_shape`` (of one sample), ``classes``
# and its own options.
MODELS: dict[str, Named] = {
    "logistic": Named(
        "fedlearn.models.dense:Logistic",
        "one linear layer: softmax regression for any input but text",
    ),
    "2nn": Named(
        "fedlearn.models.dense:TwoNN",
        "McMahan's two hidden layers of 200; 199,210 parameters on MNIST",
    ),
    "cnn": Named(
        "fedlearn.models.cnn:CNN",
        "McMahan's two 5x5 convolutions; 1,663,370 parameters on MNIST",
    ),
    "cnn-small": Named(
        "fedlearn.models.cnn:SmallCNN",
        "a CNN that learns fast on a CPU; the embedded default",
    ),
    "lenet": Named(
        "fedlearn.models.cnn:LeNet",
        "NIID-Bench's small CNN; 44,426 parameters on MNIST",
    ),
    "lstm-char": Named(
        "fedlearn.models.lstm:CharLSTM",
        "McMahan's stacked LSTM over bytes; 866,560 parameters",
    ),
    "lstm-sensor": Named(
        "fedlearn.models.lstm:SensorLSTM",
        "one LSTM and a mean over time, for sensor series",
    ),
    "lstm-rows": Named(
        "fedlearn.models.lstm:RowLSTM", "Sattler's LSTM that reads a picture row by row"
    ),
    "transformer-char": Named(
        "fedlearn.models.transformer:CharTransformer",
        "a small causal transformer over bytes",
    ),
    "resnet-small": Named(
        "fedlearn.models.resnet:SmallResNet",
        "a residual CNN with GroupNorm (or BatchNorm)",
    ),
    "mobilenet-small": Named(
        "fedlearn.models.mobilenet:SmallMobileNet",
        "inverted residuals with depthwise 3x3",
    ),
}


def build(
    name: str,
    options: Mapping[str, Any],
    *,
    input_shape: tuple[int, ...],
    classes: int,
    seed: int,
    modality: Modality | None = None,
) -> nn.Module:
    """Return a new model on the CPU, checked against the data.

    Its weights are a function of the seed alone.

    name: a key of `MODELS`, or ``module:attribute`` of an ``nn.Module`` subclass or of a
        function that returns a module; it gets ``input_shape`` and ``classes`` where it
        takes them, beside the ``options``.
    options: the factory's own, and `SHAPES`: the shape of each tensor, by name, where the
        model has other widths than the factory gives it (see `resize`). `BINARY`, true:
        layers compute with the signs of their weights (see `binary`).
    modality: what a sample is; None reads it off the shape: 3 numbers are an image, 2 a
        series, 1 a text if there are 256 classes.

    torch's global generator is left as it was. Raises ConfigError for an unknown name or
    option, and ModelError when the model cannot be built, has nothing to train, or gives
    an output that does not fit the labels.
    """
    import torch

    from fedlearn.models.fit import check_fit

    label = f"model '{name}'"
    own_options = {
        key: value for key, value in options.items() if key not in (SHAPES, BINARY)
    }
    factory = find("model", name, MODELS)
    # A module that exists is callable, too, but its weights do not follow from the
    # seed.
    if isinstance(factory, torch.nn.Module) or not callable(factory):
        kind = type(factory).__name__
        raise ModelError(
            f"{label} is a {kind}; "
            "name an nn.Module class or a function that returns a module"
        )

    shape = {"input_shape": input_shape, "classes": classes}
    # Only the CPU's generator is kept and seeded, because models are built there:
    # torch.manual_seed would seed every GPU's as well.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(seed, "init"))
        try:
            module: nn.Module = call(label, factory, own_options, shape)
        # An unknown option is named by `call`, in one sentence already.
        except UserError:
            raise
        # The factory may be a user's, and options may be of any type.
        except Exception as error:
            raise ModelError(
                f"{label} cannot be built with {_described(own_options)}: "
                f"{reason_of(error)}"
            ) from error
        check = partial(
            check_fit,
            label,
            module,
            input_shape=input_shape,
            classes=classes,
            modality=modality or _modality(input_shape, classes),
        )
        _complete(label, module, options, check)
    return module


def _complete(
    label: str, module: nn.Module, options: Mapping[str, Any], check: Callable[[], None]
) -> None:
    """Give a new module its shapes and its kind of weights, and check that it fits.

    Where the random numbers are the model's own: the first call of `check` draws the weights
    of torch's lazy layers.
    """
    blame: AbstractContextManager[None] = nullcontext()
    if SHAPES in options:
        from fedlearn.models.resize import blamed, resize

        # As the factory made it: what fails afterwards is the shapes' fault.
        check()
        resize(label, module, options[SHAPES])
        blame = blamed(label, module, options[SHAPES])
    if options.get(BINARY):
        from fedlearn.models.binary import binarise

        binarise(label, module)
    with blame:
        check()


def _described(options: Mapping[str, Any]) -> str:
    """Return options as an error message shows them."""
    if not options:
        return "no options"
    texts = [f"{key}={value!r}" for key, value in options.items()]
    return ", ".join(texts)


def _modality(input_shape: tuple[int, ...], classes: int) -> Modality:
    """Return what a sample of this shape most likely is."""
    if len(input_shape) == 1:
        # A text's classes are its bytes.
        return "text" if classes == 256 else "features"
    return "series" if len(input_shape) == 2 else "image"
