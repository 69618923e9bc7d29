"""A Flower app over agents with mutual TLS: the model, the messages and the bytes of a run in
processes of one machine, whoever is killed meanwhile.
"""

import json
import shutil
from contextlib import contextmanager

import pytest

from fedlearn.apps import start
from fedlearn.apps.api import run_app
from fedlearn.apps.options import RunOptions
from tests.apps.making import TWICE, ran, write
from tests.system.app_fleets import SAMPLES, AppFleet

SAME = (
    *("model_sha256", "messages_sha256", "messages", "failed", "rounds", "codec"),
    *("bytes_up", "bytes_down", "bytes_raw", "train", "evaluate", "server"),
)


@contextmanager
def fleet(folder, name, *options):
    processes = AppFleet(folder, name, *options)
    try:
        yield processes
    finally:
        processes.end()


def simulated(folder, name, changes=None, codecs=("", "")):
    options = RunOptions(*codecs)
    started = start.of_options(SAMPLES / name, changes=changes, options=options)
    return run_app(started, folder / "simulated", quiet=True).summary


def lines(path):
    texts = (path / "metrics.jsonl").read_text().splitlines()
    return [json.loads(text) for text in texts]


def check_same(folder, summary, expected, path):
    assert {key: summary[key] for key in SAME} == {key: expected[key] for key in SAME}
    ours, theirs = lines(path), lines(folder / "simulated")
    for line in ours + theirs:
        del line["seconds"]
    assert ours == theirs


def test_an_app_with_a_state_whose_agent_and_coordinator_are_killed(tmp_path):
    expected = simulated(tmp_path, "advanced")
    with fleet(tmp_path, "advanced") as processes:
        processes.serve("coordinator.stored=kill@9")
        # Its state is on disk, its answer not sent; later the process that answers ends.
        points = ("agent.before-send=kill@2", "agent.residual-kept=kill@2", "", "")
        for client, point in enumerate(points):
            processes.attend(client, point, "apps = adv")
        summary = processes.wait()
        check_same(tmp_path, summary, expected, processes.run)
        assert processes.kills >= 2
    assert not (processes.run / "journal").exists()


CASES = [
    ("quickstart", 4, "quick", ("", ""), "coordinator.stored=kill@8", "agent.sent"),
    (
        "quickstart",
        4,
        "quick",
        ("eden1", "q8"),
        "journal.before-sync=kill@5",
        "agent.task",
    ),
    (
        "vertical",
        3,
        "vert",
        ("", ""),
        "journal.after-sync=kill@7",
        "agent.acknowledged",
    ),
    ("vertical", 3, "vert", ("eden1", "q8", "q8"), "", "agent.after-answer"),
    (
        "quickstart",
        4,
        "quick",
        ("auto", "auto"),
        "coordinator.stored=kill@6",
        "agent.model-kept",
    ),
    ("analytics", 5, "ana.client_app:app", ("", ""), "journal.after-sync=kill@3", ""),
    (
        "wide",
        3,
        "wide",
        ("auto", "q8"),
        "coordinator.stored=kill@4",
        "agent.model-kept",
    ),
    ("faults", 6, "fau", ("", ""), "coordinator.stored=kill@3", "agent.before-answer"),
]


@pytest.mark.nightly
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("name", "nodes", "apps", "codecs", "point", "agents"), CASES)
def test_an_app_that_is_killed_anywhere(
    name, nodes, apps, codecs, point, agents, tmp_path
):
    expected = simulated(tmp_path, name, codecs=codecs)
    # Some leave the codec of the first model out.
    ways = zip(("up", "down", "first"), codecs, strict=False)
    sets = [f"--set=codec.{way}={codec}" for way, codec in ways if codec]
    with fleet(tmp_path, name, *sets) as processes:
        processes.serve(point)
        for client in range(nodes):
            armed = f"{agents}=kill@2" if agents and client % 2 else ""
            processes.attend(client, armed, f"apps = {apps}")
        summary = processes.wait(500)
        check_same(tmp_path, summary, expected, processes.run)


@pytest.mark.nightly
@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", ["copies", "states"])
def test_a_device_that_lost_what_it_held(part, tmp_path):
    codecs = ("eden1", "q8")
    expected = simulated(tmp_path, "advanced", codecs=codecs)
    sets = ("--set=codec.up=eden1", "--set=codec.down=q8")
    with fleet(tmp_path, "advanced", *sets) as processes:
        processes.serve()
        for client in range(4):
            # With four rounds each is asked more often; by then there is what can be lost.
            point = "agent.task=kill@4" if client == 1 else ""
            processes.attend(client, point, "apps = adv")

        def lose(state):
            (folder,) = state.glob("run-*")
            shutil.rmtree(folder / part)

        processes.before_restart = lose
        summary = processes.wait(500)
        assert processes.kills == 1
        if part == "copies":
            # They are sent again.
            assert "lacking      client 1" in processes.log("coordinator")
            check_same(tmp_path, summary, expected, processes.run)
            return
        # Nobody else has the state.
        reasons = [line["failures"].get("1001", "") for line in lines(processes.run)]
        assert "does not hold what its app kept" in reasons[-1]


HANGS = "    import time\n    if me == 1:\n        time.sleep(600)\n"

LIMITED = """
    replies = grid.send_and_receive(asked(grid, nodes), timeout=1.5)
    print("there", [reply.metadata.src_node_id for reply in replies])
"""


@pytest.mark.parametrize(
    ("server", "sets"),
    [(LIMITED, ()), (TWICE, ("engine.client_timeout_s=1.5",))],
)
def test_a_node_that_takes_too_long_is_as_in_a_run_of_one_machine(
    server, sets, tmp_path
):
    app = str(write(tmp_path / "app", server, HANGS))
    expected = ran(tmp_path / "app", tmp_path / "simulated", sets)
    assert expected["failed"] > 0
    with fleet(tmp_path, app, *(f"--set={text}" for text in sets)) as processes:
        processes.serve()
        for client in range(2):
            processes.attend(client, settings="apps = odd")
        summary = processes.wait()
        check_same(tmp_path, summary, expected, processes.run)


def test_an_app_that_an_owner_does_not_allow_is_refused_by_name(tmp_path):
    changes = "num-server-rounds=1"
    with fleet(
        tmp_path, "regression", "--nodes=2", "--run-config", changes
    ) as processes:
        processes.serve()
        processes.attend(0, settings="apps = reg")
        processes.attend(1, settings="apps = other, reg.other")
        summary = processes.wait()
        assert (processes.code, summary["failed"] > 0) == (0, True)
        reason = (
            "declined: the coordinator asks for the ClientApp 'reg.client_app:app' of this "
            "device; to allow it: --apps reg, or apps = reg in agent.ini"
        )
        assert lines(processes.run)[0]["failures"] == {"1001": reason}
        assert reason.removeprefix("declined: ") in processes.log("coordinator")
        assert "declined the coordinator asks for" in processes.log("agent1")
