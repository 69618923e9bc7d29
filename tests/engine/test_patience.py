"""Clients that take for ever: a line names them, and a limit ends them."""

import pytest

from fedlearn.config import read
from fedlearn.engine import patience
from fedlearn.engine.patience import SCORING, Patience, clients_of
from fedlearn.engine.task import Group, Task
from fedlearn.plan import Plan
from fedlearn.records.writing import RunFolder
from fedlearn.reporting.progress import Progress
from fedlearn.runs.simulation import simulate
from tests.jobs import CONFIG, run

PLAN = Plan(4, 0)


@pytest.fixture
def lines():
    return []


def test_a_line_names_who_is_waited_for_and_comes_again_ever_later(lines):
    patience = Patience(lines.append, "give up")
    work = (Task(7, "train", PLAN), Task(9, "train", PLAN))
    for _ in range(59):
        patience.passed(1.0, [work])
    assert lines == [
        "nothing has come for 20 s; still at work: clients 7, 9 (train, round 4); give up"
    ]
    patience.passed(1.0, [work])
    assert [line[:27] for line in lines] == [
        "nothing has come for 20 s; ",
        "nothing has come for 60 s; ",
    ]


def test_clients_that_always_take_long_are_no_news(lines):
    patience = Patience(lines.append, "")
    patience.passed(19.0, [])
    patience.came()
    patience.passed(56.0, [])
    assert lines == []
    patience.passed(1.0, [(Task(2, "evaluate", PLAN),)])
    assert "client 2 (evaluate, round 4)" in lines[0]


def test_scoring_has_no_client_to_end(lines):
    patience = Patience(lines.append, "end it")
    patience.passed(30.0, [SCORING, SCORING, SCORING])
    assert lines == [
        "nothing has come for 30 s; still at work: the evaluation of held-out samples"
    ]


def test_the_clients_of_a_group_are_all_named():
    tasks = (Task(3, "train", PLAN, group=Group((3, 5), True)), Task(4, "train", PLAN))
    assert clients_of(tasks) == [3, 5, 4]


@pytest.mark.parametrize("kind", ["serial", "pool", "stacked"])
def test_a_run_says_whom_it_waits_for(kind, tmp_path, monkeypatch):
    """The clients wait until the line has been said."""
    monkeypatch.setattr(patience, "FIRST_S", 0.2)
    monkeypatch.setattr(patience, "LOOK_S", 0.1)
    monkeypatch.setattr("fedlearn.engine.pool.LOOK_S", 0.1)
    path = tmp_path / "said"
    config = CONFIG.replace('"logistic"', f'"tests.faults:Waits"\npath = "{path}"')
    experiment = read(_written(tmp_path, config), [f"engine.kind={kind}"])
    lines = []

    class Says(Progress):
        def note(self, text):
            lines.append(text)
            if "still at work" in text:
                path.touch()

    with Says(quiet=True) as display:
        simulate(experiment, RunFolder(tmp_path / "run"), display)
    work = "a first step of two clients" if kind == "stacked" else "(train, round 1)"
    assert work in next(line for line in lines if "still at work" in line)


def _written(folder, config):
    (folder / "c.toml").write_text(config)
    return folder / "c.toml"


SLEEPS = CONFIG.replace("rounds = 3", "rounds = 1").replace(
    "fraction_train = 0.5", "fraction_train = 1.0"
)
SLEEPS = SLEEPS.replace("clients = 12", "clients = 4")


def test_a_client_that_takes_longer_than_its_limit_fails(tmp_path):
    config = SLEEPS + '[client]\napp = "tests.faults:third_sleeps"\n'
    limit = "engine.client_timeout_s=1.5"
    ran = run(tmp_path / "run", limit, config=config, engine="pool")
    assert ran.code == 0
    assert ran.lines[1]["failures"] == dict.fromkeys(
        ("0", "3"), "it took longer than engine.client_timeout_s = 1.5"
    )
    assert ran.lines[1]["clients"] == 4


def test_a_limit_that_nobody_needs_changes_nothing(tmp_path):
    runs = [
        run(tmp_path / "free", config=SLEEPS, engine="pool"),
        run(
            tmp_path / "limited",
            "engine.client_timeout_s=500",
            config=SLEEPS,
            engine="pool",
        ),
    ]
    assert runs[0].sha256 == runs[1].sha256


@pytest.mark.parametrize("kind", ["serial", "ray"])
def test_an_engine_that_cannot_end_a_client_says_so(kind, tmp_path, capsys):
    ran = run(tmp_path / "run", "engine.client_timeout_s=5", engine=kind)
    assert ran.code == 2
    assert 'client_timeout_s needs kind = "pool"' in capsys.readouterr().err
