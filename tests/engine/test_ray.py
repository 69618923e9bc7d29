"""A run on a Ray cluster of two nodes is the run of one process, whatever dies meanwhile."""

import os
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedlearn import config
from fedlearn.brief import Brief
from fedlearn.data import population
from fedlearn.engine.ray import engine
from fedlearn.engine.ray.actor import Actor
from fedlearn.engine.runner import Runner
from fedlearn.models import build, layout
from fedlearn.names import import_path
from fedlearn.records.writing import RunFolder
from fedlearn.reporting.progress import Progress
from fedlearn.runs.simulation import simulate
from tests.jobs import CONFIG, run

utils = pytest.importorskip(
    "ray.cluster_utils", reason="ray is not installed: pip install 'fedlearn[ray]'"
)

# 1,438 samples in 3 equal parts: one client of 480, whose last batch of 7 has 4 samples,
# and two of 479.
KILLS = (
    CONFIG.replace('"dirichlet"', '"iid"')
    .replace("alpha = 1.0\n", "")
    .replace("clients = 12", "clients = 3")
    .replace("fraction_train = 0.5", "fraction_train = 1.0")
    .replace("lr = 0.5", "lr = 0.5\nbatch_size = 7")
    .replace(
        'name = "logistic"',
        'name = "tests.faults:Kills"\nsize = 4\ncounter = "{counter}"\ntimes = {times}',
    )
)


@pytest.fixture(scope="module")
def cluster():
    made = utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    made.add_node(num_cpus=1)
    made.wait_for_nodes()
    yield made
    made.shutdown()


@pytest.fixture
def on_ray(cluster, tmp_path):
    def on_ray(*sets: str, config: str = CONFIG):
        return run(
            tmp_path / "ray",
            f"engine.address={cluster.address}",
            *sets,
            config=config,
            engine="ray",
        )

    return on_ray


@pytest.fixture
def deadly(tmp_path):
    def deadly(times: int) -> str:
        (tmp_path / "counter").write_bytes(b"")
        return KILLS.format(counter=tmp_path / "counter", times=times)

    return deadly


def test_serial_pool_and_ray_give_the_same_bits(on_ray, tmp_path):
    sets = [
        "codec.up=eden1",
        "codec.down=eden1",
        "codec.downlink=cast",
        "evaluate.clients=true",
    ]
    runs = [
        on_ray(*sets),
        *(run(tmp_path / kind, *sets, engine=kind) for kind in ("serial", "pool")),
    ]
    assert len({ran.sha256 for ran in runs}) == 1
    for what in ("loss", "bytes_up", "bytes_down", "clients_evaluation"):
        assert [line[what] for line in runs[0].lines] == [
            line[what] for line in runs[1].lines
        ]


def test_a_step_taken_together_has_the_same_bits_on_ray(on_ray, tmp_path):
    sets = ["engine.collapse=true", "train.batch_size=0"]
    there, here = on_ray(*sets), run(tmp_path / "serial", *sets)
    assert (there.code, there.sha256) == (here.code, here.sha256) == (0, there.sha256)
    assert [line["bytes_up"] for line in there.lines] == [
        line["bytes_up"] for line in here.lines
    ]


def test_what_clients_keep_travels_with_their_tasks(on_ray, tmp_path):
    sets = ["codec.up=ef+topk(0.1)+tern", "codec.down=q4", "codec.downlink=shadow"]
    there, here = on_ray(*sets), run(tmp_path / "serial", *sets)
    assert there.sha256 == here.sha256
    for kept in ("copies.f32", "residuals.f32"):
        assert (there.folder / "checkpoint" / kept).read_bytes() == (
            here.folder / "checkpoint" / kept
        ).read_bytes()
    assert sum(line["bytes_up"] for line in there.lines) == sum(
        line["bytes_up"] for line in here.lines
    )


def test_a_client_app_keeps_its_state_on_ray(on_ray, tmp_path):
    app = CONFIG.replace(
        "[strategy]", '[client]\napp = "tests.faults:by_client"\n\n[strategy]'
    )
    there, here = (
        on_ray("codec.up=q8", config=app),
        run(tmp_path / "serial", "codec.up=q8", config=app),
    )
    assert there.sha256 == here.sha256
    assert sum(line["failed"] for line in there.lines) == 0


def test_a_worker_that_lacks_a_package_is_the_users_to_mend(
    on_ray, tmp_path, monkeypatch, capsys
):
    (tmp_path / "here" / "only").mkdir(parents=True)
    (tmp_path / "here" / "only" / "here.py").write_text(
        "class Actor:\n    def build(self, job): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "here")
    monkeypatch.setattr(engine, "Actor", import_path("actor", "only.here:Actor"))
    assert on_ray().code == 2
    assert (
        "a Ray worker cannot load fedlearn: ModuleNotFoundError: No module named 'only'"
        in capsys.readouterr().err
    )


def test_an_actor_killed_by_chance_changes_nothing(on_ray, deadly, tmp_path):
    calm = run(tmp_path / "calm", "experiment.rounds=2", config=deadly(0))
    hit = on_ray("experiment.rounds=2", config=deadly(1))
    assert (tmp_path / "counter").read_bytes() == b"x"
    assert hit.sha256 == calm.sha256
    assert sum(line["failed"] for line in hit.lines) == 0


def test_a_client_that_kills_its_actor_is_recorded_and_the_round_goes_on(
    on_ray, deadly
):
    ran = on_ray("experiment.rounds=1", config=deadly(10_000))
    assert ran.code == 0
    (reason,) = ran.lines[1]["failures"].values()
    assert reason.startswith("its Ray actor died twice (out of memory?")
    assert ran.lines[1]["clients"] == 3


class Removes(Progress):
    """A display that takes a node away in the middle of the second round."""

    def __init__(self, cluster: Any) -> None:
        super().__init__(quiet=True)
        self.cluster, self.round, self.removed = cluster, 0, 0

    def round_done(self, line):
        self.round = line["round"]

    def client_done(self, done, total):
        if self.round == 1 and done == 1 and not self.removed:
            self.removed = total
            self.cluster.remove_node(
                self.cluster.worker_nodes.copy().pop(), allow_graceful=False
            )


def test_a_node_lost_in_a_round_changes_nothing(cluster, tmp_path):
    slow = CONFIG.replace(
        'name = "logistic"', 'name = "tests.faults:Slow"\nseconds = 0.01'
    )
    here = run(tmp_path / "serial", config=slow)
    (tmp_path / "ray.toml").write_text(slow)
    sets = ["engine.kind=ray", f"engine.address={cluster.address}"]
    display = Removes(cluster)
    folder = RunFolder(tmp_path / "ray")
    sigterm = signal.getsignal(signal.SIGTERM)
    summary = simulate(config.read(str(tmp_path / "ray.toml"), sets), folder, display)
    folder.close()
    # Ray has its own while it runs.
    assert signal.getsignal(signal.SIGTERM) is sigterm
    assert display.removed == 6
    assert summary["model_sha256"] == here.sha256


def test_ctrl_c_ends_the_cluster_that_was_started(tmp_path):
    slow = CONFIG.replace(
        'name = "logistic"', 'name = "tests.faults:Slow"\nseconds = 0.05'
    ).replace("rounds = 3", "rounds = 1000")
    (tmp_path / "slow.toml").write_text(slow)
    mark = uuid.uuid4().hex
    command = [
        sys.executable,
        "-m",
        "fedlearn.simulate",
        "slow.toml",
        "--out",
        "run",
        "--set",
        "engine.kind=ray",
    ]
    # Ray keeps the token of the clusters that it starts in the home folder.
    environment = {
        **os.environ,
        "MARK": mark,
        "HOME": str(tmp_path),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    process = subprocess.Popen(
        [*command, "--set", "engine.workers=1"],
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines, end = tmp_path / "run" / "metrics.jsonl", time.monotonic() + 90
    while time.monotonic() < end and not (lines.exists() and lines.read_text()):
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()
    assert marked(mark) == []


def marked(mark: str) -> list[str]:
    """Return the processes with a mark in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in path.read_bytes():
                found.append(path.with_name("cmdline").read_text())
        except OSError:  # it ended, or is not ours
            continue
    return found


def test_ray_that_is_not_installed_is_named_with_its_install_line(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert run(tmp_path / "run", engine="ray").code == 2
    assert (
        "kind = \"ray\" needs Ray: pip install 'fedlearn[ray]'"
        in capsys.readouterr().err
    )


def test_an_address_without_a_cluster_is_the_users_to_mend(tmp_path, capsys):
    assert run(tmp_path / "run", "engine.address=127.0.0.1:1", engine="ray").code == 2
    assert (
        '[engine] no Ray cluster can be used at address = "127.0.0.1:1"'
        in capsys.readouterr().err
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("address", "kind", "reason"),
    [
        (
            "auto",
            "pool",
            'address = "auto" is of a Ray cluster, and needs kind = "ray"',
        ),
        (
            "ray://first:10001",
            "ray",
            'start it on a machine of the cluster, with address = "auto"',
        ),
    ],
)
def test_an_address_that_cannot_be_is_refused(tmp_path, capsys, address, kind, reason):
    assert run(tmp_path / "run", f"engine.address={address}", engine=kind).code == 2
    assert reason in capsys.readouterr().err


@pytest.fixture
def job(tmp_path):
    experiment = config.validate(
        {
            "data": {"name": "digits", "partition": {"kind": "iid", "clients": 3}},
            "model": {"name": "logistic"},
        },
        "",
    )
    data = population("digits", {}, {"kind": "iid", "clients": 3}, 0)
    module = build(
        "logistic",
        {},
        input_shape=data.input_shape,
        classes=data.classes,
        seed=0,
        modality=data.modality,
    )
    runner = Runner(module, layout(module), data, 0)
    brief = Brief(
        seed=0,
        data="digits",
        data_options={},
        partition={"kind": "iid", "clients": 3},
        model="logistic",
        model_options={},
        modality=data.modality,
        classes=data.classes,
        input_shape=data.input_shape,
        holdout=0.0,
        schema=runner.layout.schema.hex(),
    )
    return engine._setup(runner, experiment, brief)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"versions": {"torch": "1.0"}},
            ", and 1.0 at the coordinator; install that one",
        ),
        (
            {"initial": bytes(8)},
            "the first model has other values than at the coordinator",
        ),
        (
            {"partition": "00"},
            "the data is divided among its clients in another way than at the coordinator",
        ),
    ],
)
def test_a_machine_that_would_give_other_bits_is_refused(job, changes, reason):
    told = Actor().build(replace(job, **changes))
    assert str(told).startswith("Ray worker ")
    assert reason in str(told)
