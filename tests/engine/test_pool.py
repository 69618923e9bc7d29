"""The pool survives what kills its workers."""

import os
import time
from types import SimpleNamespace
from typing import Any

import pytest

from fedlearn.engine.pool import Pool
from fedlearn.engine.task import Outcome, Task
from fedlearn.plan import Plan
from tests.jobs import CONFIG, run

# 1,438 samples in 12 equal parts: ten clients of 120, and two of 119, whose last batch
# has 9 samples.
EQUAL = (
    CONFIG.replace('"dirichlet"', '"iid"')
    .replace("alpha = 1.0\n", "")
    .replace("fraction_train = 0.5", "fraction_train = 1.0")
)
KILLS = EQUAL.replace(
    'name = "logistic"',
    'name = "tests.faults:Kills"\nsize = 9\ncounter = "{counter}"\ntimes = {times}',
)


@pytest.fixture
def deadly(tmp_path):
    def deadly(times: int) -> str:
        (tmp_path / "counter").write_bytes(b"")
        return KILLS.format(counter=tmp_path / "counter", times=times)

    return deadly


def test_a_worker_killed_by_chance_changes_nothing(deadly, tmp_path):
    calm = run(tmp_path / "calm", config=deadly(0), engine="pool")
    hit = run(tmp_path / "hit", config=deadly(1), engine="pool")
    assert (tmp_path / "counter").read_bytes() == b"x"
    assert hit.sha256 == calm.sha256
    assert sum(line["failed"] for line in hit.lines) == 0


def test_a_client_that_kills_its_worker_is_recorded_and_the_round_goes_on(
    deadly, tmp_path
):
    ran = run(tmp_path / "run", config=deadly(10_000), engine="pool")
    assert ran.code == 0
    reasons = [reason for line in ran.lines for reason in line["failures"].values()]
    assert len(reasons) == 2 * 3
    assert all(
        "killed by SIGKILL twice (out of memory?" in reason for reason in reasons
    )


def test_evaluation_that_kills_workers_is_an_error_not_a_loop(tmp_path, capsys):
    config = CONFIG.replace(
        'name = "logistic"', 'name = "tests.engine.test_pool:DiesInEvaluation"'
    )
    ran = run(tmp_path / "run", config=config, engine="pool")
    assert ran.code == 3
    assert (
        "evaluation of held-out samples failed: its worker process was ended with code 7 twice"
        in capsys.readouterr().err
    )


def DiesInEvaluation(
    input_shape, classes
):  # a factory, named as the class it stands for
    import os

    from torch import nn

    class Dies(nn.Linear):
        def forward(self, x):
            if not self.training and len(x) > 2:
                os._exit(7)
            return super().forward(x.flatten(1))

    return Dies(64, classes)


class InPairs(Pool):
    """Units of two, of which client 3 ends its worker; whoever works meanwhile ends after that."""

    unit_size = 2

    def __init__(self, folder) -> None:
        self.deaths, self.alone = folder / "deaths", folder / "alone"
        layout, clients = (
            SimpleNamespace(raw_bytes=64),
            SimpleNamespace(size=lambda client: 1),
        )
        runner: Any = SimpleNamespace(
            layout=layout, population=SimpleNamespace(clients=clients), note=print
        )
        super().__init__(runner, 2)

    def units(self, tasks):
        return [tuple(tasks[at : at + 2]) for at in range(0, len(tasks), 2)]

    def answer(self, unit, payload):
        clients = [task.client for task in unit]
        if clients == [2]:
            self.alone.touch()
        if 3 in clients:
            with self.deaths.open("ab") as file:
                file.write(b"x")
            os._exit(7)
        if clients == [0, 1]:
            until = time.monotonic() + 10
            while self.deaths.stat().st_size < 2 and time.monotonic() < until:
                time.sleep(0.01)
            until = time.monotonic() + 0.5
            while not self.alone.exists() and time.monotonic() < until:
                time.sleep(0.01)
        return [
            Outcome(client, payload=b"%d of " % client + bytes(payload))
            for client in clients
        ]


def test_a_stack_that_kills_its_worker_is_tried_apart_while_others_are_at_work(
    tmp_path,
):
    (tmp_path / "deaths").touch()
    pool = InPairs(tmp_path)
    try:
        found = {}
        for outcome in pool.run(
            [Task(client, "train", Plan(1, 0)) for client in range(6)], b"model"
        ):
            found[outcome.client] = outcome.error or bytes(outcome.payload or b"")
    finally:
        pool.close()
    assert found.pop(3) == "its worker process was ended with code 7 twice"
    assert found == {client: b"%d of model" % client for client in (0, 1, 2, 4, 5)}


def test_workers_go_on_where_their_scheduling_class_cannot_be_chosen(
    tmp_path, monkeypatch
):
    def refuse(*arguments):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", refuse, raising=False)
    ran = run(tmp_path / "run", "experiment.rounds=1", engine="pool")
    assert ran.code == 0
    assert sum(line["failed"] for line in ran.lines) == 0
