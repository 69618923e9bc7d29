"""Clients that take one step as one batch: the run is that of one client after another.

Its record says so of each client.
"""

import json
import os
import signal
from multiprocessing import parent_process
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn

from fedlearn import config
from fedlearn.data.images import digits
from fedlearn.data.samples import Population, Samples
from fedlearn.engine import together
from fedlearn.engine.collapse import Collapsed
from fedlearn.engine.task import Task
from fedlearn.errors import ConfigError
from fedlearn.plan import Plan
from fedlearn.records.writing import RunFolder
from fedlearn.reporting.progress import Progress
from fedlearn.runs.simulation import simulate
from tests.jobs import CONFIG, run, strategy

ON = "engine.collapse=true"
FEDAVG = CONFIG.replace(
    "lr = 0.5", "lr = 0.5\nbatch_size = 0\nmomentum = 0.5\nweight_decay = 0.001"
)
SAME = (
    "clients",
    "failed",
    "failures",
    "attempts",
    "bytes_up",
    "bytes_down",
    "bytes_raw",
    "messages_up",
    "messages_down",
    "whole_models",
)


def close(a, b, most=1e-6):
    """Check two models; ``most``: of a tensor's largest value."""
    first, second = (load_file(each.folder / "model.safetensors") for each in (a, b))
    assert any(np.abs(each).max() > 0 for each in first.values())
    for name in first:
        assert np.abs(first[name] - second[name]).max() <= most * max(
            1e-3, np.abs(first[name]).max()
        )


def alike(a, b):
    """Check that two runs tell the same of their rounds, but for rounding and time."""
    assert len(a.lines) == len(b.lines) == 4
    for one, other in zip(a.lines[1:], b.lines[1:], strict=True):
        assert {key: one[key] for key in SAME} == {key: other[key] for key in SAME}
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-5)


RUNS = {
    "fedavg": FEDAVG,
    "fedavg, unweighted, one mini-batch": FEDAVG.replace(
        "batch_size = 0", "steps = 1\nbatch_size = 9"
    )
    + "weighted = false\n",
    "minibatch-sgd": strategy("minibatch-sgd", fraction_train=0.5).replace(
        "lr = 0.5", "lr = 0.1"
    ),
    "minibatch-sgd, three batches, augmented": strategy(
        "minibatch-sgd", clients_per_round=5, batches=3
    ).replace("lr = 0.5", 'lr = 0.1\naugment = "shift"\nlabel_smoothing = 0.1'),
    "models as halves": FEDAVG + '[codec]\ndown = "f16"\n',
    "one series of differences": FEDAVG + '[codec]\ndown = "q4"\ndownlink = "cast"\n',
    "clients evaluate": FEDAVG
    + "fraction_evaluate = 0.5\n[evaluate]\nclients = true\n",
    "devices": FEDAVG + '[devices]\nmix = "edge"\n',
}


@pytest.mark.parametrize("config", RUNS.values(), ids=RUNS)
def test_it_is_serials_run_on_every_engine(config, tmp_path, monkeypatch):
    monkeypatch.setattr("fedlearn.engine.collapse.GROUP_SAMPLES", 300)  # several groups
    plain = run(tmp_path / "plain", config=config)
    found = run(tmp_path / "serial", ON, config=config)
    assert (plain.code, found.code) == (0, 0)
    # What q4 makes of a difference in the last bit may be another of its steps.
    close(plain, found, 1e-6 if "q4" not in config else 1e-2)
    alike(plain, found)
    if "[devices]" in config:
        assert [line["devices"] for line in found.lines[1:]] == [
            line["devices"] for line in plain.lines[1:]
        ]
    engines = (
        (("pool", 3), ("stacked", 0), ("auto", 1))
        if config is FEDAVG
        else (("pool", 3),)
    )
    for kind, workers in engines:
        other = run(
            tmp_path / f"{kind}{workers}",
            ON,
            f"engine.workers={workers}",
            config=config,
            engine=kind,
        )
        assert other.sha256 == found.sha256


def test_one_by_one_is_never_asked(tmp_path, monkeypatch):
    def train(*_):
        raise AssertionError("a client was trained by itself")

    monkeypatch.setattr("fedlearn.engine.runner.Runner._train", train)
    ran = run(tmp_path / "run", ON, config=FEDAVG)
    assert ran.code == 0 and sum(line["failed"] for line in ran.lines) == 0
    assert (
        json.loads((ran.folder / "manifest.json").read_text())["engine"]["collapse"]
        is True
    )


def test_a_resumed_run_has_the_same_bits(tmp_path):
    whole = run(tmp_path / "whole", ON, config=FEDAVG)
    assert run(tmp_path / "run", ON, "experiment.rounds=1", config=FEDAVG).code == 0
    assert (
        run(tmp_path / "run", ON, config=FEDAVG, resume=True, engine="pool").sha256
        == whole.sha256
    )


class Six:
    """Six clients of 30 digits, of which one is in trouble."""

    def __init__(self, trouble: str, counter: str, times: int) -> None:
        self.samples, self.trouble, self.counter, self.times = (
            digits().train,
            trouble,
            Path(counter),
            times,
        )

    def __len__(self) -> int:
        return 6

    def size(self, client: int) -> int:
        return 30

    def __getitem__(self, client: int) -> Samples:
        own = self.samples.take(np.arange(30 * client, 30 * client + 30))
        if client != 2:
            return own
        if self.trouble == "unreadable":
            raise OSError("sensor unplugged")
        if self.trouble == "empty":
            return own.take(np.arange(0))
        if self.trouble == "infinite":
            return Samples(np.full(own.x.shape, np.inf, np.float32), own.y)
        if self.trouble == "labels":
            return Samples(own.x, own.y + 10)
        if (
            self.trouble == "deadly"
            and parent_process()
            and self.counter.stat().st_size < self.times
        ):
            with open(self.counter, "ab") as file:
                file.write(b"x")
            os.kill(os.getpid(), signal.SIGKILL)
        return own


def six(trouble: str, counter: str = "", times: int = 0) -> Population:
    found = digits()
    return Population(
        "six",
        "image",
        10,
        (1, 8, 8),
        Six(trouble, counter, times),
        found.test.take(np.arange(100)),
    )


def troubled(trouble: str, *rest: str) -> str:
    data = "\n".join(
        ['name = "tests.engine.test_collapse:six"', f'trouble = "{trouble}"', *rest]
    )
    begin, end = FEDAVG.index("[data]"), FEDAVG.index("[model]")
    return (FEDAVG[:begin] + f"[data]\n{data}\n\n" + FEDAVG[end:]).replace(
        "fraction_train = 0.5", "fraction_train = 1.0"
    )


@pytest.mark.parametrize("trouble", ["unreadable", "empty", "infinite", "labels"])
@pytest.mark.parametrize("kind", ["serial", "pool"])
def test_a_client_in_trouble_fails_by_name_and_the_others_count(
    trouble, kind, tmp_path
):
    plain = run(tmp_path / "plain", config=troubled(trouble))
    found = run(tmp_path / "found", ON, config=troubled(trouble), engine=kind)
    assert (plain.code, found.code) == (0, 0)
    assert [line["failed"] for line in found.lines] == [0, 1, 1, 1]
    close(plain, found)
    alike(plain, found)  # the reasons too


def test_a_worker_killed_by_chance_changes_nothing(tmp_path):
    calm = run(tmp_path / "calm", ON, config=troubled("none"))
    (tmp_path / "counter").touch()
    hit = run(
        tmp_path / "hit",
        ON,
        config=troubled("deadly", f'counter = "{tmp_path}/counter"', "times = 1"),
        engine="pool",
    )
    assert (tmp_path / "counter").read_bytes() == b"x"
    assert hit.sha256 == calm.sha256


def test_a_client_that_kills_its_worker_is_recorded_and_the_others_count(tmp_path):
    (tmp_path / "counter").touch()
    ran = run(
        tmp_path / "hit",
        ON,
        config=troubled("deadly", f'counter = "{tmp_path}/counter"', "times = 10_000"),
        engine="pool",
    )
    assert ran.code == 0
    assert [list(line["failures"]) for line in ran.lines] == [[], ["2"], ["2"], ["2"]]
    assert all(
        "killed by SIGKILL twice" in line["failures"]["2"] for line in ran.lines[1:]
    )


def test_too_few_clients_void_a_round(tmp_path, capsys):
    assert (
        run(
            tmp_path / "run",
            ON,
            "experiment.min_clients=6",
            config=troubled("unreadable"),
        ).code
        == 3
    )
    assert (
        "5 of 6 clients gave a usable update (client 2: OSError: sensor unplugged)"
        in capsys.readouterr().err
    )


class Odd(nn.Module):
    """A model that does in training what its ``kind`` says."""

    def __init__(self, input_shape, classes, kind: str) -> None:
        super().__init__()
        self.seen: torch.Tensor
        self.count: torch.Tensor
        self.dense, self.kind = nn.Linear(64, classes), kind
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        if kind == "halves":
            self.half()

    def forward(self, x):
        x = x.flatten(1)
        if self.training and self.kind == "noise":
            x = x + 1e-6 * float(np.random.standard_normal())
        if self.training and self.kind == "mean":
            x = x - x.mean(0)
        if self.training and self.kind == "sees":
            self.seen += 1
        if self.training and self.kind == "counts":
            self.count += 1
        return self.dense(x.to(self.dense.weight.dtype))


def model(name: str, *options: str) -> str:
    return FEDAVG.replace(
        'name = "logistic"', "\n".join([f'name = "{name}"', *options])
    )


ODD = {
    kind: model("tests.engine.test_collapse:Odd", f'kind = "{kind}"')
    for kind in ("noise", "mean", "sees", "counts", "halves")
}
LINES = (
    model("transformer-char", "dropout = 0.1")
    .replace('"digits"', '"shakespeare-mini"')
    .replace('kind = "dirichlet"\nclients = 12\nalpha = 1.0\n', "")
)

REFUSED = {
    "two epochs": (
        FEDAVG,
        "train.epochs=2",
        "set train.steps = 1, or train.epochs = 1 and train.batch_size = 0",
    ),
    "two steps": (FEDAVG, "train.steps=2", "more than one step"),
    "mini-batches of an epoch": (CONFIG, "train.batch_size=10", "more than one step"),
    "a codec": (
        FEDAVG,
        "codec.up=q8",
        'codec.up = "q8" encodes each update: set codec.up = "raw32"',
    ),
    "error feedback": (FEDAVG, "codec.up=ef+raw32", "encodes each update"),
    "copies": (FEDAVG, "codec.down=q4", "leaves each client a model of its own"),
    "stragglers": (
        FEDAVG,
        "train.stragglers=0.5",
        "train.stragglers = 0.5 has clients do less than others: set it to 0",
    ),
    "clipping": (
        FEDAVG,
        "train.clip_norm=1.0",
        "clip_norm = 1 clips each client's gradient: set it to 0",
    ),
    "clipping by the strategy": (
        strategy("minibatch-sgd", clip_norm=2.0),
        "train.lr=0.1",
        "clip_norm = 2 clips",
    ),
    "precision": (FEDAVG, "train.precision=bfloat16", 'set it to "float32"'),
    "the median": (
        strategy("minibatch-sgd", groups=3, fraction_train=0.5),
        "train.lr=0.1",
        "strategy.groups = 3 compares updates",
    ),
    "Flower's strategies": (
        strategy("flwr.serverapp.strategy:FedAvg"),
        "train.batch_size=0",
        'take "fedavg" or "minibatch-sgd"',
    ),
    "a subclass": (
        strategy("tests.engine.test_collapse:Own"),
        "train.batch_size=0",
        "may look at each update",
    ),
    "a ClientApp": (FEDAVG, "client.app=tests.faults:by_client", "leave out [client]"),
    "a deadline": (
        FEDAVG + '[devices]\nmix = "edge"\n',
        "devices.deadline_s=60.0",
        "devices.deadline_s leaves out single clients",
    ),
    "BatchNorm": (
        model("resnet-small", 'norm = "batch"'),
        "train.lr=0.1",
        "BatchNorm normalises over each client's batch",
    ),
    "dropout": (
        LINES,
        "strategy.fraction_train=0.02",
        "the model draws random numbers in training",
    ),
    "noise": (
        ODD["noise"],
        "train.lr=0.1",
        "the model draws random numbers in training",
    ),
    "the mean of a batch": (
        ODD["mean"],
        "train.lr=0.1",
        "depends on the others of its batch",
    ),
    "a buffer": (ODD["sees"], "train.lr=0.1", "or it keeps count of them"),
    "a counter": (ODD["counts"], "train.lr=0.1", "or it keeps count of them"),
    "halves": (
        ODD["halves"],
        "train.lr=0.1",
        "'dense.weight' rounds each client's step to float16",
    ),
}


@pytest.mark.parametrize(("config", "change", "says"), REFUSED.values(), ids=REFUSED)
def test_what_needs_each_client_by_itself_is_refused(
    config, change, says, tmp_path, capsys
):
    ran = run(tmp_path / "run", ON, change, config=config)
    told = capsys.readouterr().err
    assert ran.code == 2
    assert (
        "[engine] collapse = true computes clients together, but " in told
        and says in told
        and told.count("\n") == 1
    )
    assert not ran.folder.exists() or not [
        path for path in ran.folder.rglob("*") if path.is_file()
    ]


def test_agents_are_refused(tmp_path):
    fleet: Any = "never called"
    experiment = config.validate(
        {
            "data": {"name": "digits"},
            "train": {"batch_size": 0},
            "engine": {"collapse": True},
        },
        "here",
    )
    folder, display = RunFolder(tmp_path / "run"), Progress(quiet=True)
    with pytest.raises(
        ConfigError,
        match="agents work each for itself: take a simulation, or leave out collapse",
    ):
        simulate(experiment, folder, display, agents=fleet)


def Own(layout, seed, clients):  # a factory, named as the class it stands for
    from fedlearn.strategies.fedavg import FedAvg

    class Mine(FedAvg):
        pass

    return Mine(layout, seed, clients)


class Sized:
    """A runner whose clients have so many samples."""

    def __init__(self, *sizes: int) -> None:
        self.population = self.clients = self
        self.size = sizes.__getitem__


@pytest.mark.parametrize(
    ("sizes", "batch_size", "groups"),
    [
        ((10, 20, 30), 0, [[2, 1, 0]]),
        ((600, 600, 600), 0, [[0], [1], [2]]),
        (
            (60,) * 10,
            0,
            [[0, 4, 8], [1, 5, 9], [2, 6], [3, 7]],
        ),  # four groups, of 600 samples
        ((1000, 10, 10, 10), 0, [[0], [1], [2], [3]]),
        ((1000, 10, 10, 10), 5, [[0, 1, 2, 3]]),  # of each client five samples
        ((0, 0), 0, [[0, 1]]),
    ],
)
def test_groups_follow_from_the_cohort(sizes, batch_size, groups):
    runner: Any = Sized(*sizes)
    inner: Any = SimpleNamespace(workers=1, not_stacked="")
    plan = Plan(1, 0, batch_size=batch_size)
    tasks = [Task(client, "train", plan) for client in range(len(sizes))]
    for asked in (tasks, tasks[::-1]):
        found = Collapsed(inner, runner, True).groups(asked)
        assert [[task.client for task in group] for group in found] == groups


def test_recurrent_layers_take_small_slices():
    assert together._slice(nn.Sequential(nn.Linear(2, 2))) == together.SLICE
    assert together._slice(nn.Sequential(nn.LSTM(2, 2))) == together.RECURRENT_SLICE
