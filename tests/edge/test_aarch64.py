"""The agent on real aarch64 binaries (see `board`), against a coordinator of this machine.
`make edge-test` runs it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fedlearn.server.journal import Journal
from fedlearn.wire import UPDATE, read_message
from tests.edge.board import ROOT, Board, Missing, board

pytestmark = [
    pytest.mark.skipif(
        "FEDLEARN_EDGE" not in os.environ, reason="make edge-test runs this"
    ),
    pytest.mark.timeout(
        1800
    ),  # the emulator takes a minute of processor time to import torch twice
]
WITHIN = 1e-5
"""The largest difference of an update's value between processors: sums in another order, over a
few steps.
"""

RUNS = {  # model, data, rounds
    "cnn": ("cnn-small", "fashion-mini", 2),
    "lstm": ("lstm-sensor", "watch-mini", 1),
}
CONFIG = """\
[experiment]
name = "edge"
rounds = {rounds}
[data]
name = "{data}"
[data.partition]
kind = "iid"
clients = 1
[model]
name = "{model}"
[train]
steps = 3
batch_size = 8
lr = 0.1
[strategy]
name = "fedavg"
fraction_train = 1.0
[codec]
up = "raw32"
down = "raw32"
"""


@pytest.fixture(scope="module")
def arm() -> Board:
    try:
        return board()
    except Missing as error:
        pytest.skip(f"no aarch64 here: {error}")


@pytest.fixture
def started():
    """Processes that end with the test."""
    with contextlib.ExitStack() as all:

        def start(*command: object, **options) -> subprocess.Popen:
            process = subprocess.Popen(
                [str(word) for word in command],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                **options,
            )
            all.callback(process.wait)
            all.callback(process.kill)
            return process

        yield start


def serve(started, folder: Path, kind: str, *options: object) -> subprocess.Popen:
    model, data, rounds = RUNS[kind]
    config = folder.with_suffix(".toml")
    config.write_text(CONFIG.format(model=model, data=data, rounds=rounds))
    return started(
        sys.executable,
        "-m",
        "fedlearn.commands.serve",
        config,
        "--quiet",
        "--out",
        folder,
        *options,
    )


def until(found, process: subprocess.Popen):
    """Return what is found, once it is there; while a process lives that leads to it."""
    while not (it := found()):
        assert process.poll() is None, (
            f"the process ended with code {process.returncode}"
        )
        time.sleep(0.1)
    return it


def address(folder: Path, process: subprocess.Popen, port: str = "port") -> str:
    until((folder / "address.json").exists, process)
    return f"127.0.0.1:{json.loads((folder / 'address.json').read_text())[port]}"


def asked(folder: Path, round: int) -> bool:
    log = folder / "fleet.log"
    events = (
        [json.loads(line) for line in log.read_text().splitlines()]
        if log.exists()
        else []
    )
    return any(
        event["event"] == "asked" and event["key"].startswith(f"{round}/train")
        for event in events
    )


def updates(folder: Path) -> list[np.ndarray]:
    """Return the updates that a run's journal holds, in order."""
    journal = Journal(folder / "journal")
    try:
        answers = [
            journal.read(entry)
            for meta, entry in journal.records()
            if meta["kind"] == "answer" and meta["work"][1] == "train"
        ]
    finally:
        journal.close()
    messages = [read_message(answer) for answer in answers]
    assert all(
        header.kind == UPDATE and header.codec == "raw32" for header, _ in messages
    )
    return [np.frombuffer(message.body, "<f4") for _, message in messages]


def check(folder: Path, kind: str) -> None:
    ours, theirs = updates(folder / "arm"), updates(folder / "x86")
    assert len(ours) == len(theirs) == RUNS[kind][2]
    for update, other in zip(ours, theirs, strict=True):
        apart = float(np.abs(update - other).max())
        print(
            f"{kind}: {len(update):,} values up to {np.abs(other).max():.2g}; apart "
            f"at most {apart:.2g}"
        )
        assert np.abs(other).max() > 100 * WITHIN, (
            "the update is so small that the comparison says nothing"
        )
        assert apart <= WITHIN


def test_a_cnn_with_a_kill_between_enrollment_and_the_end(arm, started, tmp_path):
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
    enrollment = address(tmp_path / "arm", coordinator, "enrol")
    enroll = [
        arm.python,
        "-m",
        "fedlearn.commands.enroll",
        "--coordinator",
        enrollment,
        "--token",
        token,
        "--state",
        state,
    ]
    subprocess.run(
        enroll, cwd=ROOT, check=True, env=arm.environment(), stdout=subprocess.DEVNULL
    )

    attend = (
        arm.python,
        "-m",
        "fedlearn.agent",
        "--coordinator",
        address(tmp_path / "arm", coordinator),
        "--state",
        state,
    )
    agent = started(*attend, env=arm.environment())
    until(lambda: asked(tmp_path / "arm", 2), agent)
    agent.send_signal(signal.SIGKILL)
    agent.wait()
    again = started(*attend, env=arm.environment())
    assert again.wait() == 0
    assert coordinator.wait() == 0

    assert other.wait() == 0
    check(tmp_path, "cnn")


def test_an_lstm(arm, started, tmp_path):
    other = serve(started, tmp_path / "x86", "lstm", "--local-agents", 1)
    coordinator = serve(started, tmp_path / "arm", "lstm", "--insecure")
    attend = (
        "--coordinator",
        address(tmp_path / "arm", coordinator),
        "--client",
        0,
        "--insecure",
        "--state",
        tmp_path / "state",
    )
    agent = started(arm.python, "-m", "fedlearn.agent", *attend, env=arm.environment())
    assert agent.wait() == 0
    assert coordinator.wait() == 0

    assert other.wait() == 0
    check(tmp_path, "lstm")
