"""``fedlearn.run`` and what it returns: objects in the place of names, callbacks, resumes."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import fedlearn as fl
from fedlearn.runs import handed
from tests.jobs import run as command

CONFIG = {
    "experiment": {"name": "small", "rounds": 4, "checkpoint_every": 1},
    "data": {"name": "digits", "partition": {"kind": "iid", "clients": 8}},
    "model": {"name": "logistic"},
    "train": {"lr": 0.5},
    "strategy": {"name": "fedavg", "fraction_train": 0.5},
    "engine": {"kind": "serial"},
}


def local_net():
    """Return a class that no import leads to, as one of a notebook's cell."""

    class Net(nn.Module):
        def __init__(self, input_shape, classes, width=12):
            super().__init__()
            inputs = int(np.prod(input_shape))
            self.layers = nn.Sequential(
                nn.Flatten(),
                nn.Linear(inputs, width),
                nn.ReLU(),
                nn.Linear(width, classes),
            )

        def forward(self, x):
            return self.layers(x)

    return Net


def points(count=240, seed=0):
    """Return features with three classes, and owners."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(count, 6)).astype(np.float32)
    y = (x @ random.normal(size=(6, 3))).argmax(1)
    return x, y, np.arange(count) % 6


class After(fl.Callback):
    """Ends a run after a round, and notes what it was called with."""

    def __init__(self, last=0):
        self.last = last
        self.rounds = []
        self.facts = {}
        self.summary = {}
        self.weights = {}

    def begin(self, facts):
        self.facts = dict(facts)

    def after_round(self, line, weights):
        self.rounds.append(line["round"])
        self.weights = dict(weights())
        return line["round"] == self.last

    def end(self, summary):
        self.summary = dict(summary)


def test_a_dict_gives_the_commands_hash(tmp_path):
    run = fl.run(CONFIG, {"experiment.rounds": 3}, out=tmp_path / "api", quiet=True)
    text = run.folder.joinpath("config.toml").read_text()
    assert (
        command(tmp_path / "command", config=text).sha256 == run.summary["model_sha256"]
    )
    assert [line["round"] for line in run.rounds] == [0, 1, 2, 3]
    assert run.config.experiment.rounds == 3


def test_an_experiment_is_read_changed_and_run(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('[experiment]\nname = "mine"\nrounds = 2\n')
    experiment = fl.Experiment.read(path, {"train.lr": 0.25})
    assert (experiment.experiment.name, experiment.train.lr) == ("mine", 0.25)
    changed = experiment.changed({"data.name": "digits", "model.name": "logistic"})
    run = fl.run(changed, {"engine.kind": "serial"}, out=tmp_path / "run", quiet=True)
    assert run.config.train.lr == 0.25
    assert run.config.data.name == "digits"


@pytest.mark.parametrize(
    ("config", "changes", "words"),
    [
        (CONFIG, {"train.lrr": 1}, "changes {'train.lrr': 1}: unknown key 'train.lrr'"),
        (CONFIG, {"train.lr": "fast"}, "changes {'train.lr': 'fast'}"),
        (CONFIG, {"lr": 1}, "name a key by section.key"),
        ({"trian": {}}, {}, "unknown key 'trian'. Did you mean 'train'?"),
        (7, {}, "a int is no config"),
        ("defualt", {}, "Did you mean 'default'?"),
    ],
)
def test_a_wrong_config_is_one_sentence(config, changes, words, tmp_path):
    with pytest.raises(fl.ConfigError) as error:
        fl.run(config, changes, out=tmp_path / "run", quiet=True)
    assert words in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("engine", ["serial", "pool"])
def test_objects_stand_in_the_place_of_names(engine, tmp_path):
    x, y, owners = points()
    data = fl.dataset(x[:200], y[:200], x[200:], y[200:], owners[:200])
    config = {k: v for k, v in CONFIG.items() if k not in ("data", "model")}
    run = fl.run(
        config,
        {"engine.kind": engine},
        data=data,
        model=local_net(),
        out=tmp_path / "run",
        quiet=True,
    )
    assert run.config.model.name == "python:Net"
    assert run.summary["accuracy"] > run.rounds[0]["accuracy"]
    again = fl.run(config, data=data, model=local_net(), out=tmp_path / "b", quiet=True)
    assert again.summary["model_sha256"] == run.summary["model_sha256"]


def test_an_instance_is_used_as_it_is_and_left_as_it_was(tmp_path):
    torch.manual_seed(3)
    net = local_net()((1, 8, 8), 10)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    first = After(last=1)
    fl.run(CONFIG, model=net, callbacks=[first], out=tmp_path / "run", quiet=True)
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])
    # A round's step is small: the model that the run began with was this one.
    moved = max(
        float((torch.from_numpy(first.weights[name]) - value).abs().max())
        for name, value in before.items()
    )
    assert 0 < moved < 0.5


def test_what_can_be_imported_is_recorded_by_its_name(tmp_path):
    from fedlearn.models.dense import Logistic

    run = fl.run(CONFIG, model=Logistic, out=tmp_path / "run", quiet=True)
    assert run.config.model.name == "fedlearn.models.dense:Logistic"
    assert handed.importable_name(local_net()) is None
    assert handed.importable_name(np.ones(3)) is None


def test_a_resume_asks_for_the_object_again(tmp_path):
    out = tmp_path / "run"
    net = local_net()
    whole = fl.run(CONFIG, model=net, out=tmp_path / "whole", quiet=True)
    ended = fl.run(CONFIG, model=net, callbacks=[After(last=2)], out=out, quiet=True)
    assert ended.summary["rounds"] == 2
    with pytest.raises(fl.ConfigError, match=r"hand it over again.*model=Net"):
        fl.run(out=out, resume=True, quiet=True)
    run = fl.run(out=out, resume=True, model=net, quiet=True)
    assert run.summary["rounds"] == 4
    assert run.summary["model_sha256"] == whole.summary["model_sha256"]


def test_a_strategy_of_ones_own(tmp_path):
    from flwr.serverapp.strategy import FedAvg

    class Mine(FedAvg):
        pass

    changes = {"strategy.fraction_train": 0.5}
    config = {key: value for key, value in CONFIG.items() if key != "strategy"}
    by_class = fl.run(config, changes, strategy=Mine, out=tmp_path / "a", quiet=True)
    instance = FedAvg(fraction_train=0.5, min_available_nodes=2)
    by_instance = fl.run(config, strategy=instance, out=tmp_path / "b", quiet=True)
    assert by_class.config.strategy.name == "python:Mine"
    assert by_instance.summary["model_sha256"] == by_class.summary["model_sha256"]


class Halves:
    """A codec of one's own: float16, two bytes a value."""

    def encode(self, values, seed, context):
        return values.astype("<f2").tobytes()

    def decode(self, body, seed, context):
        if len(body) != 2 * context.size:
            raise fl.ConfigError("another length")
        return np.frombuffer(body, "<f2").astype(np.float32)


@pytest.mark.parametrize("engine", ["serial", "pool"])
def test_a_codec_of_ones_own_gives_the_bytes_of_ours(engine, tmp_path):
    changes = {"engine.kind": engine, "codec.down": "raw32"}
    own = fl.run(CONFIG, changes, up=Halves(), out=tmp_path / "own", quiet=True)
    ours = fl.run(CONFIG, changes, up="f16", out=tmp_path / "ours", quiet=True)
    assert own.config.codec.up == "python:Halves"
    assert own.summary["model_sha256"] == ours.summary["model_sha256"]
    # Only the codec's name in each payload's header is longer.
    more = len("python:Halves") - len("f16")
    messages = sum(line["messages_up"] for line in own.rounds)
    assert own.summary["bytes_up"] - ours.summary["bytes_up"] == more * messages
    with pytest.raises(fl.ConfigError, match=r"hand it over again.*up=Halves"):
        fl.run(out=tmp_path / "own", resume=True, quiet=True)
    with pytest.raises(fl.ConfigError, match="has no decode"):
        handed.named({"up": type("Half", (), {"encode": Halves.encode})})


def test_callbacks_are_called_and_may_end_the_run(tmp_path):
    callback = After(last=2)
    run = fl.run(CONFIG, callbacks=[callback], out=tmp_path / "run", quiet=True)
    assert callback.rounds == [1, 2]
    assert callback.facts["name"] == "small"
    assert callback.summary["rounds"] == 2 == run.summary["rounds"]
    state = run.state_dict()
    assert set(callback.weights) == set(state)
    for name, value in state.items():
        assert np.array_equal(value.numpy(), callback.weights[name])


def test_a_callbacks_own_error_ends_the_run_which_can_go_on(tmp_path):
    class Breaks(fl.Callback):
        def after_round(self, line, weights):
            if line["round"] == 3:
                raise ZeroDivisionError("mine")

    whole = fl.run(CONFIG, out=tmp_path / "whole", quiet=True)
    out = tmp_path / "run"
    with pytest.raises(ZeroDivisionError):
        fl.run(CONFIG, callbacks=[Breaks()], out=out, quiet=True)
    run = fl.run(out=out, resume=True, quiet=True)
    assert run.summary["model_sha256"] == whole.summary["model_sha256"]


def test_a_run_gives_its_model_back(tmp_path):
    run = fl.run(CONFIG, out=tmp_path / "run", quiet=True)
    from fedlearn.data import population

    test = population("digits", {}, {"kind": "iid", "clients": 8}, 0).test
    classes = run.predict(test.x)
    accuracy = float((classes == test.y).mean())
    assert accuracy == pytest.approx(run.summary["accuracy"])
    assert not run.model().training
    probabilities = run.predict(test.x[:2], probabilities=True)
    assert probabilities.shape == (2, 10)
    assert probabilities.sum(1) == pytest.approx([1, 1], abs=1e-5)
    assert run.predict(test.x[0]).tolist() == classes[:1].tolist()
    with pytest.raises(fl.DataError, match="the model takes"):
        run.predict(np.zeros((4, 3, 3), np.uint8))


def test_a_table_a_plot_and_figures(tmp_path):
    first = fl.run(CONFIG, out=tmp_path / "first", quiet=True)
    second = fl.run(CONFIG, {"train.lr": 0.1}, out=tmp_path / "second", quiet=True)
    frame = first.frame()
    assert frame.index.tolist() == [0, 1, 2, 3, 4]
    assert frame.loc[4, "accuracy"] == first.summary["accuracy"]
    assert [axes.get_title() for axes in first.plot().axes]
    html = first._repr_html_()
    assert "small" in html and "data:image/png;base64," in html
    both = fl.compare([first, tmp_path / "second"])
    assert len(both.plot().axes[0].get_lines()) == 2
    assert len(both.frame()) == 2
    assert both.write(tmp_path / "page.html").exists()
    with pytest.raises(fl.UserError, match="two runs or more"):
        fl.compare([second])


def test_a_run_that_is_not_finished_is_loaded(tmp_path):
    run = fl.run(CONFIG, out=tmp_path / "run", quiet=True)
    (run.folder / "summary.json").unlink()
    (run.folder / "model.safetensors").unlink()
    loaded = fl.load(run.folder)
    assert not loaded.finished
    assert len(loaded.rounds) == 5
    with pytest.raises(fl.RecordError, match="resume it first"):
        loaded.state_dict()
    with pytest.raises(fl.UserError):
        fl.load(tmp_path / "nowhere")


def test_torch_threads_and_the_plots_backend_are_given_back(tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "svg")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        fl.run(CONFIG, {"experiment.rounds": 1}, out=tmp_path / "run", quiet=True)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    import os

    assert os.environ["MPLBACKEND"] == "svg"


def test_agents_are_served(tmp_path):
    config = json.loads(json.dumps(CONFIG))
    config["data"]["partition"]["clients"] = 2
    config["strategy"]["fraction_train"] = 1.0
    config["experiment"]["rounds"] = 2
    served = fl.serve(config, local_agents=2, out=tmp_path / "served", quiet=True)
    simulated = fl.run(config, out=tmp_path / "simulated", quiet=True)
    assert served.summary["model_sha256"] == simulated.summary["model_sha256"]
    with pytest.raises(fl.UserError, match="certificates"):
        fl.serve(config, out=tmp_path / "nobody", quiet=True)


def test_a_folder_of_an_earlier_version_is_read_and_goes_on(tmp_path):
    whole = fl.run(CONFIG, out=tmp_path / "whole", quiet=True)
    ended = fl.run(CONFIG, callbacks=[After(last=2)], out=tmp_path / "run", quiet=True)
    path = ended.folder / "config.toml"
    today = path.read_text()
    # [fleet] comes before [devices]; its word was the same then.
    before, devices = today.split("[devices]")
    former = before + "[devices]" + devices.replace('"all"', '"any"', 1)
    assert former != today
    path.write_text(former)
    assert fl.load(ended.folder).config.devices.cohort == "all"
    with pytest.raises(fl.ConfigError, match="'any' is called 'all' now"):
        fl.run(path, out=tmp_path / "own", quiet=True)
    run = fl.run(out=ended.folder, resume=True, quiet=True)
    assert run.summary["model_sha256"] == whole.summary["model_sha256"]
    assert path.read_text() == today
