"""What comes of the processes that work for a release, whoever ends them."""

import asyncio
import sys

import pytest

from fedlearn.clients.agent.release_settings import ReleaseSettings
from fedlearn.clients.agent.releases import ReleaseDesk
from fedlearn.exchange.releases import ReleaseId

RELEASE = ReleaseId("small", 3, "ab" * 32)


def desk(monkeypatch, tmp_path, script):
    """Return a desk whose steps are done by a script, and what it says."""
    start = asyncio.create_subprocess_exec

    def scripted(*command, **pipes):
        return start(sys.executable, "-c", script, str(tmp_path), **pipes)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", scripted)
    said: list[str] = []
    settings = ReleaseSettings(tmp_path / "slots", (), ())
    return ReleaseDesk(settings, lambda: None, said.append), said


def reply(monkeypatch, tmp_path, script):
    """Return a desk's reply of one step, and what it said."""
    worker, said = desk(monkeypatch, tmp_path, script)
    return asyncio.run(worker._process("stage", RELEASE)), said


KILLED_ONCE = """
import os, pathlib, signal, sys
mark = pathlib.Path(sys.argv[1], "mark")
if not mark.exists():
    mark.touch()
    os.kill(os.getpid(), signal.SIGTERM)
print('{"objection": null}')
"""


def test_work_that_a_signal_ends_is_tried_once_more(monkeypatch, tmp_path):
    answer, said = reply(monkeypatch, tmp_path, KILLED_ONCE)
    assert answer == {"objection": None}
    assert said == ["the stage of small 3 (abababab) was ended by signal 15"]


@pytest.mark.parametrize(
    ("script", "code", "tries"),
    [("import os; os.kill(os.getpid(), 9)", -9, 2), ("raise SystemExit(5)", 5, 0)],
)
def test_work_that_never_ends_well_is_an_objection(
    script, code, tries, monkeypatch, tmp_path
):
    answer, said = reply(monkeypatch, tmp_path, script)
    text = f"its stage ended with code {code}"
    assert answer == {"objection": text, "failed": True}
    assert len(said) == tries


FAILS_TWICE = """
import pathlib, sys
marks = sorted(pathlib.Path(sys.argv[1]).glob("mark*"))
if len(marks) < 2:
    pathlib.Path(sys.argv[1], f"mark{len(marks)}").touch()
    raise SystemExit(1)
print('{"objection": ANSWER}')
"""


@pytest.mark.parametrize(
    ("answer", "is_intact"), [("null", True), ('"its hash is another"', False)]
)
def test_a_look_that_failed_says_nothing_of_a_slot(
    answer, is_intact, monkeypatch, tmp_path
):
    script = FAILS_TWICE.replace("ANSWER", answer)
    worker, said = desk(monkeypatch, tmp_path, script)
    monkeypatch.setattr("fedlearn.clients.agent.releases.CONSENT_S", 0.0)
    assert asyncio.run(worker._is_intact("a", RELEASE)) is is_intact
    lines = ["slot a cannot be looked at yet: its inspect ended with code 1"] * 2
    if not is_intact:
        lines.append("slot a does not hold small 3 (abababab): its hash is another")
    assert said == lines
