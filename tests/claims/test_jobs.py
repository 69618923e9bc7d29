"""Runs side by side, with processes that only pretend: who is waited for, what is started how."""

import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from fedlearn import config
from fedlearn.claims import jobs, runs
from fedlearn.claims.processes import RunProcess, RunRequest
from fedlearn.claims.runs import PlannedRun
from fedlearn.errors import RecordError, UserError
from fedlearn.records.writing import RunFolder
from tests.runfolder import write_run


class Silent:
    """A watch that calls ``then`` when runs are looked at."""

    def __init__(self, then=lambda: None) -> None:
        self.then, self.most = then, 0

    def begun(self, run: PlannedRun, resumed: bool) -> None: ...

    def look(self, runs: Iterable[PlannedRun]) -> None:
        self.most = max(self.most, len(list(runs)))
        self.then()

    def ended(self, run: PlannedRun, error: str | None) -> None: ...


@pytest.fixture
def started(monkeypatch):
    """Return the requests that are started.

    Each ends at once with ``code``, and with its run finished where that is 0.
    """
    requests: list[RunRequest] = []

    class Ended:
        code = 0

        def __init__(self, request: RunRequest) -> None:
            requests.append(request)
            request.log.write_bytes(b"one line\nfedlearn: why\n")
            if not self.code:
                request.folder.mkdir(exist_ok=True)
                (request.folder / "summary.json").write_text("{}")

        def poll(self) -> int:
            return self.code

    monkeypatch.setattr("fedlearn.claims.jobs.RunProcess", Ended)
    monkeypatch.setattr(jobs, "POLL_S", 0.001)
    monkeypatch.setattr(runs, "cores", lambda: 4)
    return requests, Ended


def wanted(tmp_path: Path, name: str, agents: int = 0) -> PlannedRun:
    return PlannedRun(name, config.read("default"), agents, tmp_path / name)


def test_what_is_finished_is_not_started_and_the_rest_share_the_processors(
    started, tmp_path
):
    commands, _ = started
    write_run(tmp_path / "old")
    watch = Silent()
    assert (
        jobs.run_all(
            [wanted(tmp_path, name) for name in ("old", "a", "b", "c")], 2, watch
        )
        == {}
    )
    assert watch.most == 2
    assert [request.config for request in commands] == [
        tmp_path / f"{name}.toml" for name in ("a", "b", "c")
    ]
    assert config.read(str(tmp_path / "a.toml")).engine.workers == 2


def test_agents_are_served_and_a_folder_that_is_there_is_resumed(started, tmp_path):
    commands, _ = started
    (tmp_path / "a").mkdir()
    jobs.run_all([wanted(tmp_path, "a"), wanted(tmp_path, "b", agents=3)], 1, Silent())
    simulated, served = commands
    assert (simulated.agents, simulated.resume) == (0, True)
    assert (served.agents, served.resume) == (3, False)


@pytest.mark.parametrize("finished", [True, False])
def test_a_folder_that_another_process_writes_to_is_waited_for(
    finished, started, tmp_path
):
    commands, _ = started
    other = RunFolder(tmp_path / "a")

    def end() -> None:
        assert not commands
        if finished:
            (tmp_path / "a" / "summary.json").write_text("{}")
        other.close()
        watch.then = lambda: None

    watch = Silent(end)
    assert jobs.run_all([wanted(tmp_path, "a")], 1, watch) == {}
    assert len(commands) == (0 if finished else 1)


def test_a_run_that_fails_says_why_and_a_wrong_input_ends_all(started, tmp_path):
    _, ended = started
    ended.code = 3
    run = wanted(tmp_path, "a")
    assert jobs.run_all([run], 1, Silent()) == {run.folder: "why"}
    ended.code = 2
    with pytest.raises(UserError, match=r"^a: why$"):
        jobs.run_all([run, wanted(tmp_path, "b")], 1, Silent())


def test_a_full_disk_is_named(tmp_path, started):
    run = wanted(tmp_path, "a")
    run.folder.with_name("a.toml").symlink_to("/dev/full")
    with pytest.raises(
        RecordError, match=r"cannot write '.*a\.toml': No space left.*--runs"
    ):
        jobs.run_all([run], 1, Silent())


SMALL = """
[experiment]
name = "small"
rounds = {rounds}
[data]
name = "digits"
[data.partition]
kind = "iid"
clients = 4
[model]
name = "{model}"
[strategy]
fraction_train = 1.0
[engine]
kind = "serial"
"""


def process(tmp_path: Path, name: str, model: str = "logistic", rounds: int = 1, **how):
    config = tmp_path / f"{name}.toml"
    config.write_text(SMALL.format(model=model, rounds=rounds))
    request = RunRequest(
        config,
        tmp_path / name,
        tmp_path / f"{name}.log",
        how.get("agents", 0),
        how.get("resume", False),
    )
    return RunProcess(request)


def test_processes_run_by_the_api_and_fail_alone(tmp_path):
    good = process(tmp_path, "good")
    wrong = process(tmp_path, "wrong", model="logistik")
    assert good.wait(100) and wrong.wait(100)
    assert (good.poll(), wrong.poll()) == (0, UserError.exit_code)
    assert (tmp_path / "good" / "summary.json").exists()
    assert "Did you mean 'logistic'?" in (tmp_path / "wrong.log").read_text()
    assert not (tmp_path / "wrong").exists()


def test_a_process_hears_an_interrupt_however_early(tmp_path):
    """A fork of the server ignores SIGINT until its run begins."""
    for attempt in range(5):
        early = process(tmp_path, f"run-{attempt}", rounds=3000)
        early.interrupt()
        assert early.wait(60)
        assert early.poll() == 130


def test_an_interrupted_process_leaves_a_run_that_goes_on(tmp_path):
    long = process(tmp_path, "run", rounds=3000)
    until = time.monotonic() + 60
    while not (tmp_path / "run" / "checkpoint").exists() and time.monotonic() < until:
        time.sleep(0.05)
    long.interrupt()
    assert long.wait(60)
    assert long.poll() == 130
    again = process(tmp_path, "run", rounds=3000, resume=True)
    again.interrupt()
    assert again.wait(60)
