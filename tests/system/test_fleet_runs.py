"""Runs under a fleet: the model of a simulation, agents that stay, and kills in the middle."""

import json

import pytest

from fedlearn.commands import fleet as command
from fedlearn.release.run_store import RunPhase, RunStore
from fedlearn.runs.status import of_folder
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
    return all(
        phase in (RunPhase.DONE, RunPhase.FAILED) for phase, _ in phases(processes)
    )


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
    lines = folder / "metrics.jsonl"

    def rounds_done():
        return len(lines.read_text().splitlines()) if lines.exists() else 0

    processes.wait(lambda: rounds_done() >= 3, coordinator, 250)
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
