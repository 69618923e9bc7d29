"""A fleet over mutual TLS: tokens, a rollout by difference over a counted link, a revocation."""

import json
import subprocess
import sys

import pytest

from fedlearn.clients.device.slots import INCOMING, InstallDisk
from fedlearn.commands import sign
from fedlearn.experiments.benchmarks.relay import Relay
from fedlearn.package import keys
from fedlearn.package.parts import WEIGHTS_FILE
from fedlearn.records.names import ADDRESS_FILE
from fedlearn.release import rollouts
from fedlearn.release.rollouts import RolloutOptions
from tests.clients.device import releases
from tests.system.fleets import ROOT, FleetProcesses

SETTINGS = """\
[releases]
accept = small
keys = {key}
watch_s = 1
[rules]
memory_mb = 0
memory_low_mb = 0
"""
DEVICES = (0, 1)

# Numbers of a model; whole, it is 160 kB.
SHAPE = (2000, 20)


def ours(*words):
    """Run a command of ours to its end, and return what it prints."""
    command = [sys.executable, "-m", "fedlearn", *map(str, words)]
    return subprocess.check_output(command, cwd=ROOT, text=True).strip()


class SecureFleet(FleetProcesses):
    """A coordinator with an authority, and agents that enrolled by a token."""

    def __init__(self, folder):
        super().__init__(folder)
        self.pki = folder / "pki"
        ours("pki", "init", "--pki", self.pki, "--name", "localhost")
        sign.main(["--new-key", str(folder / "keys")])
        self.key = folder / "keys" / "release.pem"
        process = self.start("fleet", self.fleet, "--pki", self.pki)
        path = self.fleet / ADDRESS_FILE
        self.wait(path.exists, process)
        self.address = json.loads(path.read_text())
        self.link = Relay(self.address["port"])
        (folder / "agent.ini").write_text(SETTINGS.format(key=self.key))

    def enroll(self, client):
        """Let a device attend, which has nothing but a token."""
        state = self.folder / f"state{client}"
        token = ours("token", "--pki", self.pki, "--client", client)
        place = f"localhost:{self.address['enrol']}"
        ours("enroll", "--coordinator", place, "--token", token, "--state", state)
        attended = ("--coordinator", f"localhost:{self.link.port}", "--state", state)
        return self.start("agent", *attended, "--settings", self.folder / "agent.ini")

    def roll_out(self, package, silence_s=900.0):
        """Bring a package to all devices but silent ones, and return how it ended."""
        private = self.folder / "keys" / "release.key"
        assert sign.main([str(package.folder), "--key", str(private)]) == 0
        options = RolloutOptions(
            *(DEVICES, (1.0,)),
            most_failed=1.0,
            silence_s=silence_s,
            key=keys.read(self.key),
        )
        rollouts.start(self.fleet, package.folder, options)
        ends = ("done", "withdrawn", "aborted")
        self.wait(lambda: rollouts.status(self.fleet)["phase"] in ends)
        return rollouts.status(self.fleet)["phase"]

    def committed(self, client):
        """Return the counter of the release that a device has committed."""
        record = self.disk(client).read()
        return record.committed and record.committed.counter

    def disk(self, client):
        return InstallDisk(self.folder / f"state{client}" / "releases")

    def end(self):
        super().end()
        self.link.close()


@pytest.fixture
def fleet(tmp_path):
    fleet = SecureFleet(tmp_path)
    yield fleet
    fleet.end()


@pytest.mark.timeout(240)
def test_devices_take_a_difference_over_tls_and_a_revoked_one_gets_nothing(
    fleet, tmp_path
):
    one, two = releases.write_pair(tmp_path, SHAPE)
    agents = [fleet.enroll(client) for client in DEVICES]
    fleet.wait(lambda: len(rollouts.status(fleet.fleet)["devices"]) == len(DEVICES))
    whole = one.manifest.files[WEIGHTS_FILE].bytes

    before = fleet.link.down.passed_bytes
    assert fleet.roll_out(one) == "done"
    assert [fleet.committed(client) for client in DEVICES] == [1, 1]
    assert fleet.link.down.passed_bytes - before > 2 * whole

    # Both together take less than a quarter of one whole file.
    before = fleet.link.down.passed_bytes
    assert fleet.roll_out(two) == "done"
    assert [fleet.committed(client) for client in DEVICES] == [2, 2]
    assert fleet.link.down.passed_bytes - before < whole / 4

    ours("revoke", 1, "--pki", fleet.pki)
    fleet.wait(lambda: fleet.attending() == {0})
    three = releases.write_wide(tmp_path / "three", 3, one.weights().reshape(SHAPE))
    assert fleet.roll_out(three, silence_s=3.0) == "done"
    # A device that is only slow may count as silent, and takes it all the same.
    fleet.wait(lambda: fleet.committed(0) == 3)
    assert fleet.committed(1) == 2
    assert list((fleet.disk(1).folder / INCOMING).glob(f"{three.sha256}*")) == []
    assert agents[0].poll() is None
