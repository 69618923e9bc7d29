"""A device's doctor over the stream: one look at a time, and the owner decides."""

import asyncio
import json
from pathlib import Path

import pytest

from fedlearn.clients.agent import doctor
from fedlearn.clients.agent.doctor import REFUSED, Doctor
from fedlearn.clients.agent.options import AgentSettings
from fedlearn.exchange import exchange_pb2 as pb
from fedlearn.exchange.findings import findings_of

SETTINGS = AgentSettings("127.0.0.1:1", 3, Path("state"))
CHECK = {"name": "disk", "state": "ok", "text": "9 GB free", "fix": "", "figures": {}}


class Patient(Doctor):
    """A doctor whose looks are counted, and print what a test says."""

    def __init__(self, settings=SETTINGS, output=None):
        self.sent: list[pb.Diagnosis] = []
        super().__init__(settings, lambda frame: self.sent.append(frame.diagnosis))
        self.looks = 0
        self.output = json.dumps({"ok": True, "checks": [CHECK]}).encode()
        if output is not None:
            self.output = output

    async def _output(self):
        self.looks += 1
        await asyncio.sleep(0)
        return self.output

    async def ask(self, *numbers):
        for number in numbers:
            self.heard(pb.CoordinatorFrame(diagnose=pb.Diagnose(number=number)))
        while self._look is not None and not self._look.done():
            await asyncio.sleep(0)


def test_questions_that_come_together_are_one_look_and_one_answer():
    patient = Patient()
    asyncio.run(patient.ask(1, 2, 3))
    assert patient.looks == 1
    assert [message.number for message in patient.sent] == [3]
    assert findings_of(patient.sent[0])[0].text == "9 GB free"


def test_a_coordinator_that_asks_all_the_time_costs_one_look(monkeypatch):
    patient = Patient()

    async def ask():
        for number in range(1, 50):
            await patient.ask(number)

    asyncio.run(ask())
    assert patient.looks == 1 and len(patient.sent) == 49
    # What is old is looked at anew.
    monkeypatch.setattr(doctor, "FRESH_S", -1.0)
    stale = Patient()
    asyncio.run(stale.ask(1))
    asyncio.run(stale.ask(2))
    assert stale.looks == 2


def test_the_owner_may_forbid_it():
    settings = AgentSettings("127.0.0.1:1", 3, Path("state"), diagnose=False)
    patient = Patient(settings)
    asyncio.run(patient.ask(5))
    assert (patient.looks, patient.sent[0].reason) == (0, REFUSED)


@pytest.mark.parametrize(
    "output",
    [
        b"",
        b"[1]",
        b"{}",
        b'{"checks": 5}',
        b'{"checks": [{"name": "x"}]}',
        json.dumps({"checks": [{**CHECK, "state": "fine"}]}).encode(),
    ],
)
def test_a_doctor_that_prints_something_else_is_told(output):
    patient = Patient(output=output)
    asyncio.run(patient.ask(1))
    assert patient.sent[0].reason.startswith("its doctor cannot be asked: ")
    assert not patient.sent[0].findings


def test_other_frames_change_nothing():
    patient = Patient()
    patient.heard(pb.CoordinatorFrame(heartbeat=pb.Heartbeat()))
    assert patient.sent == []


def test_the_real_doctor_is_run_without_torch(tmp_path):
    sent: list[pb.Diagnosis] = []
    settings = AgentSettings("127.0.0.1:1", 3, tmp_path, insecure=True)
    real = Doctor(settings, lambda frame: sent.append(frame.diagnosis))

    async def ask():
        real.heard(pb.CoordinatorFrame(diagnose=pb.Diagnose(number=9)))
        while not sent:
            await asyncio.sleep(0.01)

    asyncio.run(ask())
    names = [finding.name for finding in findings_of(sent[0])]
    assert sent[0].number == 9
    assert {"board", "python", "memory", "disk"} <= set(names)
    assert "torch" not in names
