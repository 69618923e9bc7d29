"""The agent as the wheel installs it, in environments of other Pythons, against a
coordinator of this one.

FEDLEARN_PYTHONS names their interpreters, separated by colons: clean environments with torch,
made beforehand, since torch for x86 brings gigabytes of CUDA. `make edge-pythons
PYTHONS="python3.10 python3.13"` makes them and runs this.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.edge.board import ROOT
from tests.edge.test_aarch64 import address, asked, check, serve, started, until

PYTHONS = [
    path for path in os.environ.get("FEDLEARN_PYTHONS", "").split(os.pathsep) if path
]
pytestmark = [
    pytest.mark.skipif(not PYTHONS, reason="FEDLEARN_PYTHONS names no environment"),
    pytest.mark.timeout(900),
]
__all__ = ["started"]


@pytest.mark.parametrize("python", PYTHONS or [""])
def test_an_agent_enrolls_trains_is_killed_and_goes_on(python, started, tmp_path):
    # Away from the sources: what is not in the wheel is not there.
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PYTHON")
    }
    other = serve(started, tmp_path / "x86", "cnn", "--local-agents", 1)
    pki, state = tmp_path / "pki", tmp_path / "state"
    ours = [sys.executable, "-m"]
    subprocess.run(
        [*ours, "fedlearn.commands.pki", "init", "--pki", pki, "--name", "127.0.0.1"],
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    token = subprocess.check_output(
        [*ours, "fedlearn.commands.token", "--pki", pki, "--client", "0"],
        cwd=ROOT,
        text=True,
    ).strip()
    coordinator = serve(started, tmp_path / "arm", "cnn", "--pki", pki)
    theirs = [python, "-m", "fedlearn"]
    told = [
        "--token",
        token,
        "--state",
        state,
        "--coordinator",
        address(tmp_path / "arm", coordinator, "enrol"),
    ]
    subprocess.run(
        [*theirs, "enroll", *told], cwd=tmp_path, env=environment, check=True
    )
    place = address(tmp_path / "arm", coordinator)
    doctor = [*theirs, "doctor", "--state", state, "--coordinator", place]
    subprocess.run(doctor, cwd=tmp_path, env=environment, check=True)

    def attend() -> subprocess.Popen:
        command = [*theirs, "agent", "--coordinator", place, "--state", str(state)]
        agent = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL
        )
        return agent

    first = attend()
    until(lambda: asked(tmp_path / "arm", 2), first)
    first.send_signal(signal.SIGKILL)
    first.wait()
    again = attend()
    assert again.wait() == 0
    assert coordinator.wait() == 0

    assert other.wait() == 0
    check(tmp_path, "cnn")
