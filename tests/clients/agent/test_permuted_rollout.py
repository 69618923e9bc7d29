"""A release with permuted labels, in real processes: the first wave at most, and back by itself.

It is signed, quick, sure of itself, and right by its own golden outputs. Nothing but the
release before, asked the same, says otherwise. Nobody commits it: a trial that is not ended by
the gate is committed when its watch ends, and these tests fail.
"""

import numpy as np
import pytest

from fedlearn.commands import sign
from fedlearn.package.parts import Health
from fedlearn.release import rollouts
from fedlearn.server.rollout_plan import RolloutPhase
from tests.clients.agent import boards
from tests.clients.agent.boards import until
from tests.clients.device import releases

W = np.eye(6, 3, dtype=np.float32) * 9
REASON = "of answers are others than the release before gives, more than 50.0%"


@pytest.fixture
def packages(tmp_path):
    """Return a good release, the same with permuted classes, and the key that signed both."""
    sign.main(["--new-key", str(tmp_path / "keys")])
    health = Health(errors=0.01)
    good = releases.write_wide(tmp_path / "good", 1, W, health=health)
    bad = releases.write_wide(tmp_path / "bad", 2, W[:, [1, 2, 0]], health=health)
    for package in (good, bad):
        key = tmp_path / "keys" / "release.key"
        assert sign.main([str(package.folder), "--key", str(key)]) == 0
    return good, bad, tmp_path / "keys" / "release.pem"


def phase(folder):
    store = rollouts.opened(folder)
    newest = store.newest()
    store.close()
    assert newest is not None
    return newest[1]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("is_cut", [False, True], ids=["linked", "cut"])
def test_a_permuted_release_reaches_one_wave_and_is_back(tmp_path, packages, is_cut):
    good, bad, key = packages
    fleet = tmp_path / "fleet"
    with boards.fleet(tmp_path, good, key, watch_s=120, count=3) as devices:
        until(lambda: all(board.status() for board in devices))
        to_all = rollouts.RolloutOptions(devices=(0, 1, 2), shares=(1.0,))
        rollouts.start(fleet, good.folder, to_all)
        until(lambda: phase(fleet).phase is RolloutPhase.DONE)
        in_waves = rollouts.RolloutOptions(devices=(0, 1, 2), shares=(0.3, 1.0))
        plan = rollouts.start(fleet, bad.folder, in_waves)
        first = devices[plan.waves[0][0]]
        others = [board for board in devices if board is not first]
        until(lambda: first.record.trial)
        if is_cut:
            first.link.cut()
        # Only now: until there are answers, nothing speaks against it.
        for board in devices:
            board.ask()
        failure = until(lambda: first.record.failure)
        assert failure.release == releases.name_of(bad)
        assert REASON in failure.reason
        if is_cut:
            assert phase(fleet).phase is RolloutPhase.RUNNING
            first.link.mend()
        until(lambda: phase(fleet).phase is RolloutPhase.WITHDRAWN)
        assert REASON in phase(fleet).reason
        until(lambda: first.status().get("version") == "1")
        # The others have nothing of it, not even its bytes.
        for board in others:
            assert (board.record.sequence, board.status()["version"]) == (1, "1")
        assert first.record.committed == releases.name_of(good)
        for board in devices:
            board.close()
            assert board.codes and set(board.codes) == {200}


@pytest.mark.timeout(240)
def test_a_release_like_the_one_before_is_committed(tmp_path, packages):
    good, _, key = packages
    # Other weights, whose answers are the same ones.
    same = releases.write_wide(tmp_path / "same", 3, W * 2, health=Health(errors=0.01))
    sign.main([str(same.folder), "--key", str(tmp_path / "keys" / "release.key")])
    fleet = tmp_path / "fleet"
    with boards.fleet(tmp_path, good, key, watch_s=10, count=1) as [board]:
        until(board.status)
        options = rollouts.RolloutOptions(devices=(0,), shares=(1.0,))
        rollouts.start(fleet, good.folder, options)
        until(lambda: phase(fleet).phase is RolloutPhase.DONE)
        board.ask()
        rollouts.start(fleet, same.folder, options)
        observed = until(lambda: compared(board))
        assert observed["compared_with"] == "1" and observed["disagreeing"] == 0
        until(lambda: board.record.committed == releases.name_of(same))
        # What was compared with is not in memory any more.
        until(lambda: board.status()["observed"]["compared_with"] is None)
        assert board.status()["swaps"] == 1


def compared(board):
    """Return what a board's model observed, once it has compared some answers."""
    observed = board.status().get("observed", {})
    return observed if observed.get("compared", 0) >= 20 else None


@pytest.mark.timeout(240)
def test_the_owners_probe_refuses_it_before_it_serves(tmp_path, packages):
    good, bad, key = packages
    x = np.random.default_rng(0).integers(0, 256, (50, 6)).astype(np.uint8)
    np.savez(tmp_path / "probe.npz", x=x, y=(x @ W).argmax(1))
    more = f"probe = {tmp_path}/probe.npz\nprobe_accuracy = 0.9"
    fleet = tmp_path / "fleet"
    with boards.fleet(tmp_path, good, key, 120, 1, more) as [board]:
        until(board.status)
        options = rollouts.RolloutOptions(devices=(0,), shares=(1.0,))
        rollouts.start(fleet, good.folder, options)
        until(lambda: phase(fleet).phase is RolloutPhase.DONE)
        rollouts.start(fleet, bad.folder, options)
        failure = until(lambda: board.record.failure)
        assert "refused (probe): it labels 0.0% of the owner's 50" in failure.reason
        assert board.status()["swaps"] == 0
