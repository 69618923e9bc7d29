"""A run starts from the weights of a run or a file, over every way to its clients."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import fedlearn as fl
from fedlearn.config import read
from fedlearn.engine.runner import single_thread
from fedlearn.models import SHAPES, build
from fedlearn.models.resize import resize
from fedlearn.runs.textbook import fedavg
from fedlearn.runs.trained import load

CONFIG = {
    "experiment": {"name": "weights", "rounds": 2},
    "data": {"name": "digits", "partition": {"kind": "iid", "clients": 3}},
    "model": {"name": "logistic"},
    "train": {"lr": 0.5},
    "strategy": {"name": "fedavg", "fraction_train": 1.0, "server_momentum": 0.0},
    "engine": {"kind": "serial"},
}
EXACT = {"codec.up": "raw32", "codec.down": "raw32"}


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    folder = tmp_path_factory.mktemp("first") / "run"
    return fl.run(CONFIG, EXACT, out=folder, quiet=True)


def begun_from(source, out, changes=()):
    return fl.run(
        CONFIG, {"model.weights": str(source), **dict(changes)}, out=out, quiet=True
    )


def test_round_0_is_the_given_model_and_its_hash_is_recorded(first, tmp_path):
    run = begun_from(first.folder, tmp_path / "out", EXACT)
    assert run.rounds[0]["accuracy"] == first.summary["accuracy"]
    recorded = json.loads((run.folder / "manifest.json").read_text())["model"]
    assert recorded["weights"] == str(first.folder)
    assert recorded["weights_sha256"] == first.summary["model_sha256"]
    assert run.summary["model_sha256"] == fedavg(run.config)


@pytest.mark.parametrize("way", ["shadow", "cast"])
def test_a_first_contact_brings_the_whole_model(way, first, tmp_path):
    changes = {"codec.up": "raw32", "codec.down": "cvq(1)", "codec.downlink": way}
    out = begun_from(first.folder, tmp_path / way, changes)
    exact = begun_from(first.folder, tmp_path / "exact", EXACT)
    # After one round from the same bits the models are the same.
    assert out.rounds[1]["accuracy"] == exact.rounds[1]["accuracy"]
    assert out.rounds[1]["train_loss"] == exact.rounds[1]["train_loss"]
    # And the second round is sent as a difference.
    assert out.rounds[2]["bytes_down"] < out.rounds[1]["bytes_down"] / 4


def test_a_file_of_half_floats_is_taken(first, tmp_path):
    tensors = load_file(first.folder / "model.safetensors")
    halves = {name: tensor.half() for name, tensor in tensors.items()}
    save_file(halves, tmp_path / "half.safetensors")
    run = begun_from(tmp_path / "half.safetensors", tmp_path / "out")
    assert abs(run.rounds[0]["accuracy"] - first.summary["accuracy"]) < 0.01


def without(tensors):
    return {name: tensors[name] for name in list(tensors)[1:]}


def wider(tensors):
    return {name: torch.zeros(*tensor.shape, 2) for name, tensor in tensors.items()}


def infinite(tensors):
    return {name: tensor / 0 for name, tensor in tensors.items()}


def larger(tensors):
    return tensors | {"fc9.weight": torch.zeros(3)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without, "lacks the model's tensor 'linear.bias'"),
        (wider, r"has 'linear.\w+' as \[.*, 2\], the model as"),
        (infinite, "has NaN or infinite values"),
        (larger, "has tensors that the model lacks: fc9.weight"),
    ],
)
def test_a_misfit_names_the_tensor(change, words, first, tmp_path):
    file = tmp_path / "misfit.safetensors"
    save_file(change(load_file(first.folder / "model.safetensors")), file)
    with pytest.raises(fl.ModelError, match=words):
        begun_from(file, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_holds_no_weights_is_refused_by_name(first, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("no weights at all")
    for name in ("empty", "text", "missing"):
        with pytest.raises(fl.ConfigError, match=f"weights = '.*{name}'"):
            begun_from(tmp_path / name, tmp_path / "out")
    with pytest.raises(fl.ConfigError, match='shapes = "weights" needs weights'):
        fl.run(CONFIG, {"model.shapes": "weights"}, out=tmp_path / "out", quiet=True)


def test_a_resume_refuses_other_weights(first, tmp_path):
    file = tmp_path / "start.safetensors"
    tensors = load_file(first.folder / "model.safetensors")
    save_file(tensors, file)
    whole = begun_from(file, tmp_path / "whole", {"experiment.rounds": 3})
    run = begun_from(file, tmp_path / "out")
    more = {"experiment.rounds": 3}
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, file)
    with pytest.raises(fl.ConfigError, match="--resume: the weights of"):
        fl.run(None, more, out=run.folder, resume=True, quiet=True)
    save_file(tensors, file)
    resumed = fl.run(None, more, out=run.folder, resume=True, quiet=True)
    assert resumed.summary["model_sha256"] == whole.summary["model_sha256"]


def narrowed(name, input_shape, classes, cuts, **options):
    """Return a model's state with the leading parts of some tensors, and its module."""
    single_thread()
    whole = build(name, options, input_shape=input_shape, classes=classes, seed=0)
    state = {}
    for key, tensor in whole.state_dict().items():
        sizes = cuts.get(key, tensor.shape)
        state[key] = tensor[tuple(slice(size) for size in sizes)].clone()
    shapes = {key: list(tensor.shape) for key, tensor in state.items()}
    module = build(
        name,
        {**options, SHAPES: shapes},
        input_shape=input_shape,
        classes=classes,
        seed=0,
    )
    module.load_state_dict(state)
    return module


def test_a_model_as_wide_as_its_weights_trains(first, tmp_path):
    cuts = {"hidden1.weight": (8, 64), "hidden1.bias": (8,), "hidden2.weight": (200, 8)}
    module = narrowed("2nn", (8, 8, 1), 10, cuts)
    file = tmp_path / "narrow.safetensors"
    save_file(module.state_dict(), file)
    shaped = {"model.name": "2nn", "model.shapes": "weights"}
    run = begun_from(file, tmp_path / "out", shaped)
    assert run.state_dict()["hidden1.weight"].shape == (8, 64)
    assert run.model()(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
    again = load(str(run.folder))
    assert again.model_sha256 == run.summary["model_sha256"]
    # Without the shapes the misfit says how to ask for them.
    with pytest.raises(fl.ModelError, match='shapes = "weights"'):
        begun_from(file, tmp_path / "wide", {"model.name": "2nn"})


def test_layers_of_every_kind_take_other_shapes():
    layers = torch.nn.ModuleDict(
        {
            "conv": torch.nn.Conv2d(4, 8, 3),
            "depthwise": torch.nn.Conv2d(8, 8, 3, groups=8),
            "batch": torch.nn.BatchNorm2d(8),
            "group": torch.nn.GroupNorm(2, 8),
            "lstm": torch.nn.LSTM(8, 16, 2, batch_first=True),
        }
    )
    shapes = {name: list(tensor.shape) for name, tensor in layers.state_dict().items()}
    shapes |= {"conv.weight": [6, 4, 3, 3], "conv.bias": [6]}
    shapes |= {"depthwise.weight": [6, 1, 3, 3], "depthwise.bias": [6]}
    for name in ("weight", "bias", "running_mean", "running_var"):
        shapes[f"batch.{name}"] = [6]
    shapes |= {"group.weight": [6], "group.bias": [6]}
    for name in shapes:
        if name.startswith("lstm.weight"):
            shapes[name] = [20, 6 if name.endswith("ih_l0") else 5]
        elif name.startswith("lstm"):
            shapes[name] = [20]
    resize("model 'x'", layers, shapes)
    picture = layers["depthwise"](layers["conv"](torch.ones(2, 4, 8, 8)))
    output = layers["group"](layers["batch"](picture))
    assert output.shape == (2, 6, 4, 4)
    series, _ = layers["lstm"](output.flatten(2).transpose(1, 2))
    assert series.shape == (2, 16, 5)
    del shapes["conv.bias"]
    with pytest.raises(fl.ModelError, match=r"'conv.bias' .* of model 'x' is missing"):
        resize("model 'x'", layers, shapes)


def two_layers(first, hidden, second):
    """Return weights as of model 2nn, with other shapes of its inner tensors."""
    shapes = {"hidden1.weight": (first, 64), "hidden1.bias": (first,)}
    shapes |= {"hidden2.weight": (second, hidden), "hidden2.bias": (second,)}
    shapes |= {"output.weight": (10, second), "output.bias": (10,)}
    return {name: torch.zeros(shape) for name, shape in shapes.items()}


def other_scores():
    return two_layers(8, 8, 6) | {
        "output.weight": torch.zeros(7, 6),
        "output.bias": torch.zeros(7),
    }


def bare(name):
    return {key: value for key, value in two_layers(8, 8, 6).items() if key != name}


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (
            two_layers(8, 9, 6),
            r"tensor 'hidden2.weight' \[6, 9\] does not fit the rest",
        ),
        (other_scores(), r"tensor 'output.weight' \[7, 6\] does not fit the rest"),
        (bare("hidden2.bias"), r"tensor 'hidden2.bias' \[200\] of .* is missing"),
        (bare("") | {"x": torch.zeros(3)}, r"has no tensor 'x' \[3\]"),
        (
            bare("") | {"hidden1.weight": torch.zeros(8)},
            r"tensor 'hidden1.weight' \[8\] does not fit",
        ),
        # Layers of no units, which torch computes with and a run cannot learn.
        (two_layers(0, 0, 6), r"tensor 'hidden1.\w+' \[0.*\] would leave a layer"),
        (two_layers(8, 8, 0), r"tensor 'hidden2.\w+' \[0.*\] would leave a layer"),
    ],
)
def test_shapes_that_do_not_fit_blame_the_weights(tensors, words, tmp_path):
    file = tmp_path / "misfit.safetensors"
    save_file(tensors, file)
    changes = {"model.name": "2nn", "model.shapes": "weights"}
    with pytest.raises(fl.ModelError, match=rf"weights = '{file}': .*{words}"):
        begun_from(file, tmp_path / "out", changes)
    assert not (tmp_path / "out").exists()


def test_a_model_that_fails_by_itself_is_not_the_weights_fault(tmp_path):
    file = tmp_path / "sound.safetensors"
    save_file(two_layers(8, 8, 6), file)
    changes = {"model.name": "cnn-small", "model.shapes": "weights"}
    series = {"data.name": "watch-mini", "data.partition.kind": ""}
    with pytest.raises(fl.ModelError) as caught:
        begun_from(file, tmp_path / "out", changes | series)
    assert "weights =" not in str(caught.value)


def test_weights_beside_the_config_come_first(first, tmp_path, monkeypatch):
    tensors = load_file(first.folder / "model.safetensors")
    mine = tmp_path / "mine"
    mine.mkdir()
    save_file(tensors, mine / "start.safetensors")
    text = '[model]\nname = "logistic"\nweights = "start.safetensors"\n'
    (mine / "mine.toml").write_text(text)
    # Another model of the same name, where the command is given.
    others = {name: tensor + 1 for name, tensor in tensors.items()}
    save_file(others, tmp_path / "start.safetensors")
    monkeypatch.chdir(tmp_path)
    beside = str(mine / "start.safetensors")
    assert read("mine/mine.toml").model.weights == beside
    (mine / "start.safetensors").unlink()
    assert read("mine/mine.toml").model.weights == "start.safetensors"
