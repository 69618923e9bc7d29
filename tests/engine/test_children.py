"""Processes below the pool's workers: a user's code may start them, and none outlives the run."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.jobs import CONFIG, run

APP = (
    CONFIG.replace("rounds = 3", "rounds = 1").replace("clients = 12", "clients = 4")
    + '[client]\napp = "tests.faults:{}"\n'
)


def test_a_loader_with_processes_of_its_own_gives_one_result(tmp_path):
    config = APP.format("loads_in_processes")
    runs = {
        engine: run(tmp_path / engine, config=config, engine=engine)
        for engine in ("serial", "pool")
    }
    for ran in runs.values():
        assert [line["failed"] for line in ran.lines] == [0, 0]
    assert runs["serial"].sha256 == runs["pool"].sha256


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux ends them")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_client_that_sleeps_and_its_loader_end_with_the_run(number, tmp_path):
    config = tmp_path / "app.toml"
    config.write_text(APP.format("sleeps_beside_a_loader"))
    pids = tmp_path / "pids"
    options = {"--out": tmp_path / "run", "--set": "engine.workers=2"}
    words = [word for option in options.items() for word in option]
    process = subprocess.Popen(
        [sys.executable, "-m", "fedlearn.simulate", config, "--quiet", *words],
        env={**os.environ, "PIDS": str(pids)},
        start_new_session=True,
    )
    try:
        lines = wait_for_lines(pids, 2, process)
        children = [Path("/proc") / pid for line in lines for pid in line.split()]
        # Two workers, each with a process of its loader.
        assert len(children) == 4
        process.send_signal(number)
        process.wait(timeout=60)
        until = time.monotonic() + 60
        while any(lives(child) for child in children) and time.monotonic() < until:
            time.sleep(0.05)
        assert not any(lives(child) for child in children)
    finally:
        process.kill()
        process.wait()


def wait_for_lines(path: Path, count: int, process: subprocess.Popen) -> list[str]:
    until = time.monotonic() + 60
    lines: list[str] = []
    while len(lines) < count and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
        lines = path.read_text().splitlines() if path.exists() else []
    assert len(lines) == count, process.poll()
    return lines


def lives(proc: Path) -> bool:
    """Tell whether a process does something; a zombie only waits to be noticed."""
    try:
        return (proc / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_run_without_standard_streams_ends_well(tmp_path):
    config = tmp_path / "tiny.toml"
    config.write_text(CONFIG.replace("rounds = 3", "rounds = 1"))
    words = [sys.executable, "-m", "fedlearn.simulate", config, "--out"]
    words += [tmp_path / "run", "--set", "engine.workers=2"]
    ended = subprocess.run(
        ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *words], timeout=120, check=False
    )
    assert ended.returncode == 0
    assert (tmp_path / "run" / "summary.json").exists()
