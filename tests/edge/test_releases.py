"""Releases on real aarch64 binaries (see `board`): a rollout that swaps under requests, and one
that the device takes back. `make edge-test` runs it.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from fedlearn.commands import sign
from fedlearn.package.parts import Health
from fedlearn.release import rollouts
from fedlearn.release.rollouts import RolloutOptions
from tests.clients.agent import boards
from tests.clients.agent.boards import until
from tests.clients.device import releases
from tests.edge.board import Missing, board, with_runtime

pytestmark = [
    pytest.mark.skipif(
        "FEDLEARN_EDGE" not in os.environ, reason="make edge-test runs this"
    ),
    # Emulated, every process of the device takes half a minute to begin.
    pytest.mark.timeout(1800),
]
PATIENCE_S = 900.0
W = np.eye(6, 3, dtype=np.float32) * 9
SLOW = "ready_s = 900"


@pytest.fixture(scope="module")
def start():
    """Return what starts a command of ours on the board."""
    try:
        arm = with_runtime(board())
    except Missing as error:
        pytest.skip(f"no aarch64 here: {error}")

    def on_the_board(folder: Path, *words: object) -> subprocess.Popen:
        command = [str(arm.python), "-m", "fedlearn", *map(str, words)]
        environment = arm.environment()
        return subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, env=environment
        )

    return on_the_board


@pytest.fixture
def packages(tmp_path):
    """Return a release, a better one, one with permuted labels, and the key of all."""
    sign.main(["--new-key", str(tmp_path / "keys")])
    written = []
    for counter, weights in enumerate((W, 1.1 * W, W[:, [1, 2, 0]]), 1):
        place = tmp_path / f"package {counter}"
        health = Health(errors=0.01)
        package = releases.write_wide(place, counter, weights, health=health)
        key = tmp_path / "keys" / "release.key"
        assert sign.main([str(package.folder), "--key", str(key)]) == 0
        written.append(package)
    return written, tmp_path / "keys" / "release.pem"


def test_a_swap_under_requests_and_a_release_that_is_taken_back(
    start, packages, tmp_path
):
    (first, second, permuted), key = packages
    fleet = tmp_path / "fleet"
    options = RolloutOptions(devices=(0,), shares=(1.0,))
    with boards.fleet(tmp_path, first, key, 5, 1, SLOW, start) as (device,):

        def ended(phase: str) -> None:
            # Until then nothing is judged: the emulator takes its time.
            ends = ("done", "withdrawn", "aborted")
            until(lambda: rollouts.status(fleet)["phase"] in ends, PATIENCE_S)
            assert rollouts.status(fleet)["phase"] == phase

        until(device.status, PATIENCE_S)
        until(lambda: rollouts.status(fleet)["devices"], PATIENCE_S)
        device.ask()
        until(lambda: device.codes, PATIENCE_S)
        rollouts.start(fleet, second.folder, options)
        ended("done")
        assert device.record.committed == releases.name_of(second)

        asked = len(device.codes)
        rollouts.start(fleet, permuted.folder, options)
        ended("withdrawn")
        until(lambda: device.record.committed == releases.name_of(second))
        assert "other" in rollouts.status(fleet)["reason"]
        until(lambda: len(device.codes) > asked)
        assert set(device.codes) == {200}
        print(f"{len(device.codes)} requests over two swaps and a return, all answered")
