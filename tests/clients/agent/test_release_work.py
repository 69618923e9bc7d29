"""What comes of the processes that work for a release, whoever ends them."""

import asyncio
import sys

import pytest

from fedlearn.clients.agent.release_settings import ReleaseSettings
from fedlearn.clients.agent.releases import ReleaseDesk
from fedlearn.exchange.releases import ReleaseId

RELEASE = ReleaseId("small", 3, "ab" * 32)


def reply(monkeypatch, tmp_path, script):
    """Return a desk's reply of one step, done by a script; and what it said."""
    start = asyncio.create_subprocess_exec

    def scripted(*command, **pipes):
        return start(sys.executable, "-c", script, str(tmp_path), **pipes)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", scripted)
    said: list[str] = []
    desk = ReleaseDesk(
        ReleaseSettings(tmp_path / "slots", (), ()), lambda: None, said.append
    )
    return asyncio.run(desk._process("stage", RELEASE)), said


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
    assert answer == {"objection": f"its stage ended with code {code}"}
    assert len(said) == tries
