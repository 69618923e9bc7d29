"""Building by name and path: the same weights for a seed, a sentence for each misfit."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from fedlearn.errors import ConfigError, ModelError
from fedlearn.models import MODELS, build, layout, read_state
from fedlearn.names import import_path

HERE = __name__
IMAGE = (1, 28, 28)
FITTING = {
    "logistic": (IMAGE, 10),
    "2nn": (IMAGE, 10),
    "cnn": (IMAGE, 10),
    "cnn-small": (IMAGE, 10),
    "resnet-small": (IMAGE, 10),
    "mobilenet-small": (IMAGE, 10),
    "lenet": (IMAGE, 10),
    "lstm-rows": (IMAGE, 10),
    "lstm-sensor": ((64, 6), 7),
    "lstm-char": ((80,), 256),
    "transformer-char": ((80,), 256),
}


class Own(nn.Module):
    """A user's class: takes what is offered, and an option of its own."""

    def __init__(
        self, input_shape: tuple[int, ...], classes: int, width: int = 3
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(input_shape[-1], width), nn.Linear(width, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.layers(x)
        return scores


class Answers(nn.Module):
    """Gives what it is told to, and has one weight to train."""

    def __init__(self, answer: object) -> None:
        super().__init__()
        self.answer = answer
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> object:
        return self.answer(x) if callable(self.answer) else self.answer


BUILT = Own((4,), 2)


def own_function(classes: int) -> nn.Module:
    """A user's function that takes only one of the offered arguments."""
    return nn.Linear(4, classes)


def wrong_classes() -> nn.Module:
    return nn.Linear(4, 3)


def not_flattened() -> nn.Module:
    return nn.Linear(28, 10)


def wants_other_input() -> nn.Module:
    return nn.Linear(5, 2)


def gives_tuple() -> nn.Module:
    return Answers((1, 2))


def gives_integers() -> nn.Module:
    return Answers(lambda x: torch.zeros(2, 2, dtype=torch.int64))


def frozen() -> nn.Module:
    return nn.Linear(4, 2).requires_grad_(False)


def no_module() -> str:
    return "net"


def broken(size: int = 0) -> nn.Module:
    raise RuntimeError(f"size {size} is odd")


def lazy(classes: int) -> nn.Module:
    return nn.LazyLinear(classes)


def half_evaluating() -> nn.Module:
    module = nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2))
    module[1].eval()
    return module


def build_own(function: str, **options: object) -> nn.Module:
    return build(f"{HERE}:{function}", options, input_shape=(4,), classes=2, seed=0)


def test_every_registered_model_is_listed_here_and_exists() -> None:
    assert set(MODELS) == set(FITTING)
    for named in MODELS.values():
        assert issubclass(import_path("model", named.path), nn.Module)
        assert named.about and "\n" not in named.about


@pytest.mark.parametrize("name", MODELS)
def test_the_seed_alone_decides_the_weights(name: str) -> None:
    shape, classes = FITTING[name]
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, two, other = (
        build(name, {}, input_shape=shape, classes=classes, seed=s) for s in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    names = layout(one)
    assert (read_state(one, names).floats == read_state(two, names).floats).all()
    assert (read_state(one, names).floats != read_state(other, names).floats).any()
    assert all(p.dtype == torch.float32 and p.requires_grad for p in one.parameters())
    assert one.training


@pytest.mark.parametrize(
    "name", [n for n, (shape, _) in FITTING.items() if len(shape) == 3]
)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (2, 9, 13)])
def test_image_models_adapt_to_the_size(name: str, shape: tuple[int, ...]) -> None:
    if name == "lenet" and min(shape[1:]) < 16:
        with pytest.raises(ModelError, match="at least 16x16 pixels"):
            build(name, {}, input_shape=shape, classes=4, seed=0)
        return
    module = build(name, {}, input_shape=shape, classes=4, seed=0)
    assert module(torch.rand(3, *shape)).shape == (3, 4)


def test_features_and_text_are_told_apart() -> None:
    assert build("2nn", {}, input_shape=(60,), classes=10, seed=0)(
        torch.rand(2, 60)
    ).shape == (2, 10)
    text = build(
        "lstm-char", {"width": 4}, input_shape=(9,), classes=30, seed=0, modality="text"
    )
    assert text(torch.zeros(2, 5, dtype=torch.int64)).shape == (2, 5, 30)


def test_own_class_function_and_lazy_layer() -> None:
    assert build_own("Own", width=7).layers[1].out_features == 7  # type: ignore[index, union-attr]
    assert build_own("own_function")(torch.rand(3, 4)).shape == (3, 2)
    one, two = build_own("lazy"), build_own("lazy")
    assert torch.equal(one.weight, two.weight)  # type: ignore[arg-type]


def test_the_dry_run_leaves_modes_and_statistics() -> None:
    module = build_own("half_evaluating")
    assert [m.training for m in module.modules()] == [True, True, False]
    norm = module[1]  # type: ignore[index]
    assert norm.num_batches_tracked == 0 and torch.equal(
        norm.running_mean, torch.zeros(2)
    )


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            "wrong_classes",
            r"gives \[2, 3\] for 2 features samples of shape \[4\], .* need \[2, 2\] \(2 classes\)",
        ),
        (
            "wants_other_input",
            r"fails on 2 features samples, .* torch.float32 .* shape \[2, 4\]: RuntimeError: mat1",
        ),
        ("gives_tuple", "returns a tuple; its forward must return one float tensor"),
        (
            "gives_integers",
            "returns a torch.int64 tensor; its forward must return one float tensor",
        ),
        ("frozen", "has no parameter to train"),
        ("no_module", "gave a str; its factory must return a torch.nn.Module"),
        ("broken", "cannot be built with no options: RuntimeError: size 0 is odd"),
        ("BUILT", "is a Own; name an nn.Module class or a function"),
        ("HERE", "is a str; name an nn.Module class or a function"),
    ],
)
def test_a_misfit_is_one_sentence(function: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        build_own(function)
    assert f"model '{HERE}:{function}'" in str(caught.value)


def test_output_of_another_rank() -> None:
    with pytest.raises(
        ModelError, match=r"gives \[2, 1, 28, 10\] .* need \[2, 10\].*flatten or pool"
    ):
        build(f"{HERE}:not_flattened", {}, input_shape=IMAGE, classes=10, seed=0)
    with pytest.raises(
        ModelError,
        match=r"gives \[2, 80, 90\] .* need \[2, 80, 256\].*last layer 256 wide",
    ):
        build(f"{HERE}:text_model", {}, input_shape=(80,), classes=256, seed=0)

    with pytest.raises(
        ModelError,
        match=r"gives \[2, 256\] .* need \[2, 80, 256\].*next byte at every position",
    ):
        build(f"{HERE}:last_only", {}, input_shape=(80,), classes=256, seed=0)


def last_only() -> nn.Module:
    return nn.Sequential(nn.Embedding(256, 2), nn.Flatten(), nn.Linear(160, 256))


def text_model() -> nn.Module:
    return nn.Sequential(nn.Embedding(256, 2), nn.Linear(2, 90))


@pytest.mark.parametrize(
    ("name", "shape", "classes", "options", "message"),
    [
        (
            "cnn",
            (64, 6),
            7,
            {},
            r"'cnn' takes images .* shape \[64, 6\]; use 'lstm-sensor' for series",
        ),
        (
            "cnn",
            (1, 3, 8),
            7,
            {},
            "'cnn' needs images of at least 4x4 pixels; these are 3x8",
        ),
        (
            "lstm-sensor",
            IMAGE,
            10,
            {},
            r"'lstm-sensor' takes series .* shape \[1, 28, 28\]; use one of cnn",
        ),
        ("lstm-char", IMAGE, 10, {}, "'lstm-char' takes text"),
        (
            "2nn",
            (4,),
            2,
            {"width": 0},
            "'width' must be a whole number of at least 1, not 0",
        ),
        (
            "2nn",
            (4,),
            2,
            {"width": True},
            "'width' must be a whole number of at least 1, not True",
        ),
        (
            "resnet-small",
            IMAGE,
            10,
            {"norm": "bach"},
            "'norm' must be 'group' or 'batch', not 'bach'. Did you mean 'batch'",
        ),
        (
            "transformer-char",
            (8,),
            256,
            {"width": 10},
            "width 10 must be even and a multiple of heads 4",
        ),
        (
            "transformer-char",
            (8,),
            256,
            {"dropout": 1.0},
            r"'dropout' must be a number in \[0, 1\), not 1.0",
        ),
        (
            "logistic",
            (80,),
            256,
            {},
            r"fails on 2 text samples, a torch.int64 tensor of .*: RuntimeError: "
            r".*choose another model",
        ),
    ],
)
def test_wrong_data_or_option(
    name: str,
    shape: tuple[int, ...],
    classes: int,
    options: dict[str, object],
    message: str,
) -> None:
    with pytest.raises(ModelError, match=message):
        build(name, options, input_shape=shape, classes=classes, seed=0)


def test_unknown_name_and_option_name_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match=r"unknown model 'cnn-smal'\. Did you mean 'cnn-small'"
    ):
        build("cnn-smal", {}, input_shape=IMAGE, classes=10, seed=0)
    with pytest.raises(
        ConfigError, match=r"model '2nn' takes no option 'widht'\. Did you mean 'width'"
    ):
        build("2nn", {"widht": 3}, input_shape=IMAGE, classes=10, seed=0)


def test_importing_the_registry_does_not_import_torch() -> None:
    code = "import sys, fedlearn.models; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
