"""A fleet that is watched, over real processes: status, figures, the doctor, and who is away."""

import urllib.request

import pytest

from fedlearn.commands import doctor, status
from fedlearn.release.fleet_status import is_served
from fedlearn.server.observe import read
from tests.system.fleets import FleetProcesses, kill

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def processes(tmp_path):
    own = FleetProcesses(tmp_path)
    yield own
    own.end()


def test_a_device_is_seen_asked_and_missed(processes, capsys):
    fleet = processes.fleet
    processes.serve()
    agent = processes.attend(4)
    processes.wait(lambda: processes.attending() == {4}, agent)
    assert is_served(fleet)
    code = doctor.main(["--fleet", str(fleet), "--wait-s", "60"])
    out = capsys.readouterr().out
    assert "device 4: attends" in out and "link" in out
    assert code == 0 and "all is well" in out
    url = f"http://127.0.0.1:{processes.metrics}"
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as reply:
        assert "fedlearn_fleet_devices 1" in reply.read().decode()
    with urllib.request.urlopen(url, timeout=10) as reply:
        assert reply.read().startswith(b"<!doctype html>")
    names = [event["event"] for event in read(fleet)]
    assert "silent" not in names
    kill(agent)
    processes.wait(lambda: "silent" in [event["event"] for event in read(fleet)])
    assert status.main([str(fleet)]) == 0
    out = capsys.readouterr().out
    assert "0 of 1 devices attend" in out and "silent, away since" in out
