"""Rollouts over real processes: a coordinator, agents, what serves, and kills among them."""

import time

import pytest

from fedlearn.release import rollouts
from tests.system import rollout_kills
from tests.system.rollout_fleet import Fleet


@pytest.fixture
def fleet(tmp_path_factory):
    # Short: the path of a Unix socket has 107 characters at most.
    folder = tmp_path_factory.mktemp("f")
    fleet = Fleet(folder)
    yield fleet
    fleet.end()


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_fleet_installs_returns_and_recalls_whatever_is_killed(fleet):
    for name in ("fleet", "d0", "d1"):
        fleet.start(name)
    fleet.wait(lambda: (fleet.folder / "fleet" / "rollouts.sqlite").exists(), "store")
    fleet.wait(lambda: len(fleet.status()["devices"]) == 2, "reports")
    fleet.roll_out(fleet.package(1))
    fleet.wait_for("done")
    assert fleet.served() == "1"

    # Whatever is killed in the middle, each device ends on the wanted release.
    fleet.roll_out(fleet.package(2))
    fleet.wait(lambda: fleet.status()["rollout"] == 2, "rollout 2")
    time.sleep(1)
    for name in ("fleet", "d0", "d1"):
        fleet.kill(name)
        fleet.start(name)
    fleet.wait_for("done")
    assert {device["committed"][:7] for device in fleet.status()["devices"]} == {
        "small 2"
    }
    fleet.wait(lambda: _answers(fleet, "2"), "version 2")

    # Golden inputs that give other outputs here: no device ever serves it.
    fleet.roll_out(fleet.package(3, is_golden=False))
    fleet.wait_for("withdrawn")
    assert "golden" in fleet.status()["reason"]
    assert fleet.served() == "2"

    # A recall of what all devices have committed.
    fleet.roll_out(fleet.package(4))
    fleet.wait_for("done")
    assert fleet.served() == "4"
    rollouts.steer(fleet.folder / "fleet", "abort")
    fleet.wait_for("aborted")
    fleet.wait(lambda: _answers(fleet, "2"), "the recall")


def _answers(fleet, version):
    try:
        return fleet.served() == version
    except (OSError, KeyError):
        return False


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_no_kill_costs_a_device_its_model():
    """The short form of `python -m tests.system.rollout_kills 1000`."""
    happened = rollout_kills.main(10, seed=3)
    assert happened["agents"] + happened["coordinators"] >= 10
