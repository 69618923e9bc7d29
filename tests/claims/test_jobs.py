"""Runs side by side, with processes that only pretend: who is waited for, what is started how."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from fedlearn import config
from fedlearn.claims import jobs, runs
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
    """Return the commands that are started.

    Each ends at once with ``code``, and with its run finished where that is 0.
    """
    commands: list[list[str]] = []

    class Ended:
        code = 0

        def __init__(self, command, stdout, **_) -> None:
            commands.append(command[2:])
            self.returncode = self.code
            stdout.write(b"one line\nfedlearn: why\n")
            folder = Path(command[command.index("--out") + 1])
            if not self.code:
                folder.mkdir(exist_ok=True)
                (folder / "summary.json").write_text("{}")

        def poll(self) -> int:
            return self.returncode

    monkeypatch.setattr("subprocess.Popen", Ended)
    monkeypatch.setattr(jobs, "POLL_S", 0.001)
    monkeypatch.setattr(runs, "cores", lambda: 4)
    return commands, Ended


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
    assert [words[1] for words in commands] == [
        str(tmp_path / f"{name}.toml") for name in ("a", "b", "c")
    ]
    assert config.read(str(tmp_path / "a.toml")).engine.workers == 2


def test_agents_are_served_and_a_folder_that_is_there_is_resumed(started, tmp_path):
    commands, _ = started
    (tmp_path / "a").mkdir()
    jobs.run_all([wanted(tmp_path, "a"), wanted(tmp_path, "b", agents=3)], 1, Silent())
    simulated, served = commands
    assert simulated[0] == "fedlearn.simulate" and simulated[-1] == "--resume"
    assert (
        served[0] == "fedlearn.commands.serve"
        and served[2:4] == ["--local-agents", "3"]
        and "--resume" not in served
    )


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
