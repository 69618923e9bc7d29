"""Runs under a fleet: the model of a simulation, agents that stay, and kills in the middle."""

import json

import pytest

from fedlearn.commands import fleet as command
from fedlearn.release.run_store import OVER, RunPhase, RunStore
from fedlearn.runs.status import of_folder
from fedlearn.server.rollout_store import RolloutStore
from tests.jobs import run
from tests.system.fleets import FleetProcesses, kill
from tests.system.test_fleet import CONFIG, same

pytestmark = pytest.mark.timeout(300)  # processes that load torch


@pytest.fixture
def processes(tmp_path):
    own = FleetProcesses(tmp_path)
    (tmp_path / "run.toml").write_text(CONFIG)
    yield own
    own.end()


def wish(processes, *sets):
    """Note a run, and return its folder."""
    words = ["run", str(processes.folder / "run.toml")]
    words += ["--fleet", str(processes.fleet)]
    for text in sets:
        words += ["--set", text]
    assert command.main(words) == 0
    store = RunStore(processes.fleet)
    try:
        return store.runs()[-1].folder
    finally:
        store.close()


def phases(processes):
    store = RunStore(processes.fleet)
    try:
        return [(run.phase, run.reason) for run in store.runs()]
    finally:
        store.close()


def are_over(processes):
    return all(phase in OVER for phase, _ in phases(processes))


def rounds_of(folder):
    lines = folder / "metrics.jsonl"
    return len(lines.read_text().splitlines()) if lines.exists() else 0


def test_runs_come_and_go_and_their_agents_stay(processes, tmp_path):
    coordinator = processes.serve()
    agents = [processes.attend(client) for client in (0, 1)]
    first_sets = ("codec.up=ef+eden1", "codec.down=eden1", "experiment.rounds=2")
    second_sets = ("experiment.seed=5", "experiment.rounds=2")
    first = wish(processes, *first_sets)
    # A run that fails ends neither its fleet nor the runs that wait.
    wish(processes, "train.lr=1e30", "experiment.rounds=1")
    second = wish(processes, *second_sets)
    processes.wait(lambda: are_over(processes), coordinator, 250)
    assert [phase for phase, _ in phases(processes)] == [
        RunPhase.DONE,
        RunPhase.FAILED,
        RunPhase.DONE,
    ]
    for folder, sets in ((first, first_sets), (second, second_sets)):
        summary = json.loads((folder / "summary.json").read_text())
        simulated = run(tmp_path / f"s{len(sets)}", *sets, config=CONFIG)
        assert same(simulated.summary, summary)
        assert summary["engine"] == "fleet"
        table = json.loads((folder / "clients.json").read_text())
        assert table["0"]["train"]["answered"] == 2
        devices = json.loads((folder / "devices.json").read_text())
        assert devices.keys() == {"0", "1"}
    # No agent ended with a run.
    assert [agent.poll() for agent in agents] == [None, None]
    assert processes.attending() == {0, 1}


def test_a_coordinator_that_is_killed_goes_on_with_its_run(processes, tmp_path):
    coordinator = processes.serve()
    agents = [processes.attend(client) for client in (0, 1)]
    sets = ("codec.up=ef+eden1", "codec.down=eden1", "experiment.rounds=6")
    folder = wish(processes, *sets)
    processes.wait(lambda: rounds_of(folder) >= 3, coordinator, 250)
    kill(coordinator)
    assert phases(processes)[0][0] is RunPhase.RUNNING
    status = of_folder(folder)
    assert status.state == "stopped"
    assert status.next is not None
    assert status.next.startswith(f"fedlearn fleet {processes.fleet} and the options")
    coordinator = processes.serve()
    processes.wait(lambda: are_over(processes), coordinator, 250)
    assert phases(processes) == [(RunPhase.DONE, "")]
    summary = json.loads((folder / "summary.json").read_text())
    simulated = run(tmp_path / "simulated", *sets, config=CONFIG)
    assert same(simulated.summary, summary)
    assert [agent.poll() for agent in agents] == [None, None]


def stop(processes, number):
    return command.main(["stop", str(number), "--fleet", str(processes.fleet)])


def test_a_run_is_stopped_alone_and_goes_on_later(processes, tmp_path, capsys):
    coordinator = processes.serve()
    agents = [processes.attend(client) for client in (0, 1)]
    # Enough agents for no round: it would wait for ever.
    wish(processes, "fleet.min_agents=3", "data.partition.clients=3")
    # Far more rounds than pass until the wish is seen.
    sets = ("codec.up=ef+eden1", "codec.down=eden1", "experiment.rounds=50")
    folder = wish(processes, *sets)
    third = wish(processes, "experiment.rounds=1")
    processes.wait(
        lambda: phases(processes)[0][0] is RunPhase.RUNNING, coordinator, 250
    )
    assert stop(processes, 3) == 0
    assert stop(processes, 1) == 0
    processes.wait(lambda: rounds_of(folder) >= 2, coordinator, 250)
    assert stop(processes, 2) == 0
    processes.wait(lambda: are_over(processes), coordinator, 250)
    stopped = (RunPhase.STOPPED, "its operator stopped it")
    assert phases(processes) == [stopped, stopped, stopped]
    assert not third.exists()
    assert stop(processes, 2) == 2
    assert "run 2 is stopped already" in capsys.readouterr().err
    again = ["run", str(tmp_path / "run.toml"), "--fleet", str(processes.fleet)]
    again += ["--out", str(folder)]
    assert command.main([*again, *(f"--set={text}" for text in sets)]) == 0
    processes.wait(lambda: are_over(processes), coordinator, 250)
    assert phases(processes)[-1] == (RunPhase.DONE, "")
    summary = json.loads((folder / "summary.json").read_text())
    simulated = run(tmp_path / "simulated", *sets, config=CONFIG)
    assert same(simulated.summary, summary)
    assert [agent.poll() for agent in agents] == [None, None]


def test_what_cannot_be_stopped_is_named(tmp_path, capsys):
    assert command.main(["stop", "1", "--fleet", str(tmp_path)]) == 2
    assert "is no fleet's folder" in capsys.readouterr().err
    RolloutStore(tmp_path).close()
    assert command.main(["stop", "4", "--fleet", str(tmp_path)]) == 2
    assert "has no run 4; its runs: none yet" in capsys.readouterr().err
