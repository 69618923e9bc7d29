"""Failpoints: every name stands where it says, and a process can be armed anew."""

import ast
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fedlearn.clients.agent import store
from fedlearn.clients.messages import collected, outbox_segments
from fedlearn.server import journal
from fedlearn.system import failpoints

ROOT = Path(__file__).parents[2]
POINTS = (
    *failpoints.AGENT,
    *failpoints.TRAINER,
    *failpoints.INSTALLATION,
    *failpoints.LEARNING,
    *failpoints.COORDINATOR,
    *journal.POINTS,
    *outbox_segments.POINTS,
    *collected.POINTS,
)


def points_of(source: str):
    """Yield the texts among the arguments of every call of `reach`."""
    for call in ast.walk(ast.parse(source)):
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "reach":
            for part in ast.walk(call):
                if isinstance(part, ast.Constant) and "." in str(part.value)[1:]:
                    yield str(part.value)
        # `system.appending.append` reaches three points of one name.
        elif isinstance(call, ast.Call) and getattr(call.func, "id", "") == "append":
            for part in call.args[3:]:
                assert isinstance(part, ast.Constant)
                for place in ("before-write", "before-sync", "after-sync"):
                    yield f"{part.value!s}.{place}"


def test_the_points_that_are_named_are_those_that_the_code_reaches():
    reached = set()
    for folder in ("fedlearn", "clients", "server", "strategies"):
        for path in (ROOT / folder).rglob("*.py"):
            reached |= set(points_of(path.read_text()))
    assert reached == set(POINTS) and len(set(POINTS)) == len(POINTS)


def child(code, **environment):
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_strike_is_written_down_before_it_kills(tmp_path):
    code = "from fedlearn.system.failpoints import reach\n"
    code += "for _ in range(5): reach('here'); print('on', flush=True)"
    ended = child(
        code,
        **{
            failpoints.VARIABLE: "here=kill@3",
            failpoints.LOG: str(tmp_path / "struck"),
        },
    )
    assert (ended.returncode, ended.stdout) == (-signal.SIGKILL, "on\non\n")
    assert (tmp_path / "struck").read_text() == "here\n"


def test_what_is_imported_after_the_first_arming_can_be_armed_again():
    code = "from fedlearn.system import failpoints\nfailpoints.arm('')\n"
    code += "from fedlearn.system.failpoints import reach\nreach('here')\n"
    code += "failpoints.arm('here=kill')\nprint('on', flush=True)\nreach('here')\nprint('never')"
    ended = child(code)
    assert (ended.returncode, ended.stdout) == (-signal.SIGKILL, "on\n")


@pytest.mark.parametrize(
    "point", ["agent.before-answer", "agent.half-answer", "agent.after-answer"]
)
def test_an_answer_is_whole_or_absent_whenever_its_writer_is_killed(point, tmp_path):
    folder = tmp_path / "answers"
    folder.mkdir()
    code = "from pathlib import Path\nfrom fedlearn.clients.agent.store import write_answer\n"
    code += f"write_answer(Path({str(folder)!r}) / 'one', b'task', b'answer')"
    ended = child(code, **{failpoints.VARIABLE: f"{point}=kill"})
    assert ended.returncode == -signal.SIGKILL
    expected = [("one", b"task", b"answer")] if point == "agent.after-answer" else []
    assert list(store.answers(folder)) == expected
