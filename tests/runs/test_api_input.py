"""What a program may hand over to `fedlearn.run` and its like, and what it may not."""

import functools
import multiprocessing
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.serverapp.strategy import FedAvg
from torch import nn

import fedlearn as fl

CONFIG = {
    "experiment": {"name": "input", "rounds": 2},
    "data": {"name": "digits", "partition": {"kind": "iid", "clients": 4}},
    "model": {"name": "logistic"},
    "strategy": {"fraction_train": 0.5},
    "engine": {"kind": "serial"},
}


class Net(nn.Module):
    """Digits, through so many hidden units."""

    def __init__(self, input_shape, classes, width=6):
        super().__init__()
        inputs = int(np.prod(input_shape))
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(inputs, width), nn.Tanh(), nn.Linear(width, classes)
        )

    def forward(self, x):
        return self.layers(x)


def own_net(width):
    """Return a class called Own, as every notebook has one."""

    class Own(Net):
        def __init__(self, input_shape, classes):
            super().__init__(input_shape, classes, width)

    return Own


class Rounded:
    """A codec that keeps multiples of a step."""

    uses_moved = False
    for_differences = True

    def __init__(self, step):
        self.step = np.float32(step)
        self.calls = 0

    def encode(self, values, seed, context):
        self.calls += 1
        return np.clip(np.rint(values / self.step), -127, 127).astype(np.int8).tobytes()

    def decode(self, body, seed, context):
        return np.frombuffer(body, np.int8).astype(np.float32) * self.step


def sha256(folder, *arguments, **options):
    run = fl.run(*arguments, out=folder, quiet=True, **options)
    return run.summary["model_sha256"]


def test_numpys_numbers_and_paths_are_written_as_tomls(tmp_path):
    changes = {
        "strategy.fraction_train": np.float64(0.5),
        "data.partition.clients": np.int64(4),
        "experiment.rounds": np.int16(2),
        "train.lr": np.float32(0.25),
        "strategy.server_momentum": np.float64(0.5),
    }
    run = fl.run(CONFIG, changes, out=tmp_path / "a", quiet=True)
    assert "np." not in (tmp_path / "a" / "config.toml").read_text()
    assert run.config.data.partition.options["clients"] == 4
    again = fl.run(out=tmp_path / "a", resume=True, quiet=True)
    assert again.summary["model_sha256"] == run.summary["model_sha256"]
    sizes = {"data.partition": {"kind": "iid", "clients": 3}}
    experiment = fl.Experiment.read(CONFIG, sizes | {"model.sizes": np.arange(3)})
    assert experiment.model.options["sizes"] == [0, 1, 2]
    assert fl.Experiment.read(CONFIG, {"data.path": Path("x.npz")}).data.options == {
        "path": "x.npz"
    }


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({1, 2}, "a set cannot stand in a config"),
        (b"x", "a bytes cannot stand in a config"),
        (object(), "a object cannot stand in a config"),
        pytest.param(10**5000, "at most 64 bits", id="5000-digits"),
        (1 << 63, "at most 64 bits"),
        ("a\ud800", "is not UTF-8 text"),
        ({"deep": [{3: 1}]}, "the key 3 is not a text"),
    ],
)
def test_what_no_config_can_hold_is_refused_by_its_key(value, words, tmp_path):
    for config, changes in (
        (CONFIG, {"model.width": value}),
        (CONFIG | {"model": {"name": "logistic", "width": value}}, {}),
    ):
        with pytest.raises(fl.ConfigError) as error:
            fl.run(config, changes, out=tmp_path / "run", quiet=True)
        assert words in str(error.value)
        assert "width" in str(error.value)
        assert not (tmp_path / "run").exists()


def test_none_takes_a_key_away():
    experiment = fl.Experiment.read(CONFIG, {"strategy.fraction_train": None})
    assert experiment.strategy.options == {}
    assert fl.Experiment.read(CONFIG, {"train.lr": None}).train.lr == (
        fl.Experiment.read({}).train.lr
    )


def test_an_instance_has_its_arguments_already(tmp_path):
    whole = sha256(tmp_path / "a", CONFIG, strategy=FedAvg(fraction_train=1.0))
    config = {**CONFIG, "strategy": {}}
    assert whole == sha256(
        tmp_path / "b",
        config,
        strategy=FedAvg,
        changes={"strategy.fraction_train": 1.0},
    )
    # What is given beside the instance is meant for it, and it takes nothing.
    with pytest.raises(fl.ConfigError, match="takes no option 'fraction_train'"):
        fl.run(
            CONFIG,
            {"strategy.fraction_train": 0.5},
            strategy=FedAvg(),
            out=tmp_path / "c",
        )


def test_objects_of_one_name_are_told_apart(tmp_path):
    both = sha256(tmp_path / "a", CONFIG, up=Rounded(0.01), down=Rounded(0.02))
    coarse = sha256(tmp_path / "b", CONFIG, up=Rounded(0.02), down=Rounded(0.02))
    assert both != coarse
    x = np.random.default_rng(1).normal(size=(60, 5)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int64)
    run = fl.run(
        {**CONFIG, "data": {"partition": {"kind": "iid", "clients": 4}}},
        data=lambda: (x[:40], y[:40], x[40:], y[40:]),
        model=lambda input_shape, classes: Net(input_shape, classes),
        out=tmp_path / "c",
        quiet=True,
    )
    assert run.config.data.name != run.config.model.name


def test_a_run_leaves_the_callers_codec_as_it_was(tmp_path):
    codec = Rounded(0.01)
    run = fl.run(CONFIG, up=codec, out=tmp_path / "a", quiet=True)
    assert run.summary["bytes_up"] > 0
    assert codec.calls == 0


@pytest.mark.parametrize(
    "factory",
    [
        functools.partial(Net, width=6),
        functools.lru_cache(lambda input_shape, classes: Net(input_shape, classes)),
        type(
            "Maker",
            (),
            {"__call__": lambda self, input_shape, classes: Net(input_shape, classes)},
        )(),
    ],
)
def test_whatever_can_be_called_makes_the_model(factory, tmp_path):
    assert sha256(tmp_path / "a", CONFIG, model=factory) == sha256(
        tmp_path / "b", CONFIG, model=Net
    )


def test_runs_in_threads_take_turns(tmp_path):
    widths = (5, 9, 13)
    alone = [sha256(tmp_path / f"a{w}", CONFIG, model=own_net(w)) for w in widths]
    beside: dict[int, str] = {}

    def work(width):
        beside[width] = sha256(tmp_path / f"b{width}", CONFIG, model=own_net(width))

    threads = [threading.Thread(target=work, args=(width,)) for width in widths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [beside[width] for width in widths] == alone


class Meddler(fl.Callback):
    """Writes into all that it is given."""

    def begin(self, facts):
        facts["lines"].append({"round": 7})

    def after_round(self, line, weights):
        line["accuracy"] = 1.0
        for values in weights().values():
            values.fill(0)
        line.clear()

    def end(self, summary):
        summary["accuracy"] = 1.0


def test_a_callback_looks_on_and_changes_nothing(tmp_path):
    plain = fl.run(CONFIG, out=tmp_path / "a", quiet=True)
    watched = fl.run(CONFIG, callbacks=[Meddler()], out=tmp_path / "b", quiet=True)
    for name in ("model_sha256", "accuracy", "best_accuracy", "bytes_up"):
        assert watched.summary[name] == plain.summary[name]


class Answers(fl.Callback):
    """Answers each round with a value."""

    def __init__(self, value):
        self.value = value

    def after_round(self, line, weights):
        return self.value


def test_only_true_ends_a_run(tmp_path):
    ended = fl.run(
        CONFIG, callbacks=[Answers(np.True_)], out=tmp_path / "a", quiet=True
    )
    assert ended.summary["rounds"] == 1
    answers: list[Any] = ["yes", 1, iter([]), np.array([True, False])]
    for value in answers:
        with pytest.raises(fl.UserError, match=r"after_round returned a .*return True"):
            fl.run(
                CONFIG,
                callbacks=[Answers(value)],
                out=tmp_path / f"b{type(value).__name__}",
                quiet=True,
            )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"callbacks": None}, "callbacks is a NoneType"),
        ({"callbacks": fl.Callback()}, "callbacks is a Callback; give a list"),
        ({"callbacks": [fl.Callback]}, "callbacks[0] is the class Callback itself"),
        ({"callbacks": [fl.Callback(), print]}, "callbacks[1] is a builtin_function"),
        ({"out": 3}, "out is a int; give a path"),
        ({"out": b"x"}, "out is a bytes; give a path"),
        ({"out": "a\0b"}, "cannot be the name of a file"),
        ({"out": "a\ud800"}, "cannot be the name of a file"),
        ({"out": "folder/" + "n" * 256}, "cannot be the name of a file"),
        ({"changes": "train.lr=0.1"}, "changes is a str; give a mapping"),
        ({"changes": ["train.lr=0.1"]}, "changes is a list; give a mapping"),
        ({"up": Rounded}, "the codec Rounded() raised TypeError"),
    ],
)
def test_a_wrong_argument_is_one_sentence(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(fl.ConfigError) as error:
        fl.run(CONFIG, **arguments)
    assert words in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"port": 70000}, "port = 70000: a whole number from 0 to 65535"),
        ({"enroll_port": -1}, "enroll_port = -1"),
        ({"port": None}, "port = None"),
        ({"metrics_port": "x"}, "metrics_port = 'x'"),
        ({"local_agents": -1}, "local_agents = -1"),
        ({"local_agents": 2.0}, "local_agents = 2.0"),
        ({"host": ""}, "host = ''"),
        ({"pki": 3}, "pki is a int"),
    ],
)
def test_a_wrong_number_of_serve_is_named(arguments, words, tmp_path):
    with pytest.raises(fl.ConfigError) as error:
        fl.serve(CONFIG, out=tmp_path / "run", **{"local_agents": 2, **arguments})
    assert words in str(error.value)


def test_a_wrong_argument_of_load_and_compare_is_named(tmp_path):
    run = fl.run(CONFIG, model=own_net(4), out=tmp_path / "run", quiet=True)
    # The same functions, whose arguments mypy does not look at.
    load: Any = fl.load
    compare: Any = fl.compare
    both: Any = fl.compare([run, run])
    for call, words in (
        (lambda: load(None), "folder is a NoneType"),
        (lambda: load(run), "folder is a Run"),
        (lambda: compare(None), "compare takes a list of runs"),
        (lambda: compare([run, 3]), "folder is a int"),
        (lambda: compare([run, run], target="0.8"), "target = '0.8'"),
        (lambda: both.write(None), "path is a NoneType"),
        (lambda: fl.load(tmp_path / "run").model(), "model=Own)"),
        (lambda: fl.load(tmp_path / "run", model=own_net(5)).model(), "differs"),
    ):
        with pytest.raises(fl.FedlearnError) as error:
            call()
        assert words in str(error.value)
    # The same class under another name is the run's model as well.
    renamed = fl.load(tmp_path / "run", model=functools.partial(Net, width=4))
    assert sum(p.numel() for p in renamed.model().parameters()) == 64 * 4 + 4 + 50


class Broken(Rounded):
    """Gives what no codec may give."""

    def __init__(self, body=None, values=None):
        super().__init__(0.01)
        self.body = body
        self.values = values

    def encode(self, values, seed, context):
        return super().encode(values, seed, context) if self.body is None else self.body

    def decode(self, body, seed, context):
        if self.values is None:
            return super().decode(body, seed, context)
        return self.values


@pytest.mark.parametrize(
    ("codec", "words"),
    [
        (Broken(body="text"), "the codec Broken.encode gave a str, not bytes"),
        (Broken(values=[1.0]), "the codec Broken.decode gave a list"),
        (Broken(values=np.zeros(3, np.float32)), "values of shape (3,)"),
        (Broken(values=np.zeros(650, np.int64)), "decode gave a int64"),
    ],
)
def test_a_faulty_codec_is_named(codec, words, tmp_path):
    with pytest.raises(fl.FedlearnError) as error:
        fl.run(CONFIG, up=codec, out=tmp_path / "run", quiet=True)
    assert words in str(error.value)


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    return fl.run(CONFIG, out=tmp_path_factory.mktemp("digits") / "run", quiet=True)


def test_predict_casts_as_training_does(digits_run):
    x = np.random.default_rng(0).integers(0, 256, (9, 1, 8, 8)).astype(np.uint8)
    scores = digits_run.predict(x, probabilities=True)
    for same in (x.astype(np.int64), x.tolist(), x / 255, torch.tensor(x), x[:, 0]):
        assert np.array_equal(digits_run.predict(same, probabilities=True), scores)
    assert digits_run.predict(x[:0]).shape == (0,)
    assert digits_run.predict(x[:0], probabilities=True).shape == (0, 10)
    assert digits_run.predict(x[0]).shape == (1,)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x * np.nan, "holds NaN"),
        (lambda x: x + 0j, "has dtype complex128"),
        (lambda x: x * 255.0, "images are uint8, or floats from 0 to 1"),
        (lambda x: x.astype(str), "numbers are needed"),
        (lambda x: [[1, 2], [3]], "is no array"),
        (lambda x: x[:, :, :4], "samples of shape (1, 4, 8)"),
        (lambda x: torch.tensor(x, requires_grad=True), "is no array"),
        (lambda x: None, "not a numpy array"),
    ],
)
def test_predict_refuses_what_training_would(change, words, digits_run):
    with pytest.raises(fl.DataError) as error:
        digits_run.predict(change(np.linspace(0, 1, 128).reshape(2, 1, 8, 8)))
    assert words in str(error.value)


def pooled(folder):
    try:
        fl.run(CONFIG, {"engine.kind": "pool"}, out=folder, quiet=True)
    except fl.ConfigError as error:
        return str(error)
    return ""


def test_a_pool_in_a_worker_of_another_names_the_engine(tmp_path):
    # A new process: one forked from the tests has the locks of their threads.
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert 'engine.kind = "serial"' in pool.apply(pooled, (tmp_path / "run",))
