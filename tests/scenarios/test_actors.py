"""Processes of a scenario: what they say, how they fail, and that none outlives it."""

import contextlib
import os
import signal
import sys
import time

import pytest

from fedlearn.errors import RunError
from fedlearn.scenarios.actors import Cast


def mute(text):
    pass


def python(cast, name, text):
    return cast.start(name, [sys.executable, "-c", text])


def runs(actor) -> bool:
    return actor.popen.poll() is None


def test_a_command_gives_what_it_says(tmp_path):
    lines: list[str] = []
    with Cast(tmp_path, lines.append) as cast:
        said = cast.run("help", "scenario", "--help")
    assert "traffic" in said
    assert lines == ["$ fedlearn scenario --help"]


def test_a_command_that_fails_tells_its_last_line(tmp_path):
    with (
        Cast(tmp_path, mute) as cast,
        pytest.raises(RunError, match=r"show failed \(2\)"),
    ):
        cast.run("show", "package", "show", "nothing")


def test_what_is_not_said_is_an_error(tmp_path):
    with Cast(tmp_path, mute) as cast:
        actor = python(cast, "a", "print('one')")
        assert actor.wait_for("one", 30.0) == "one"
        with pytest.raises(RunError, match="a did not say 'two': one"):
            actor.wait_for("two", 30.0)


def test_a_log_goes_on_and_its_reader_begins_anew(tmp_path):
    with Cast(tmp_path, mute) as cast:
        python(cast, "a", "print('one')").finish(30.0)
        again = python(cast, "a", "print('two')")
        again.finish(30.0)
        assert again.said() == "two\n"
    assert (tmp_path / "a.log").read_text() == "one\ntwo\n"


def interrupted(folder):
    """Return the processes of a scenario that Ctrl-C ends, one of which is paused."""
    wait = "import time; print('up', flush=True); time.sleep(99)"
    actors = []
    with contextlib.suppress(KeyboardInterrupt), Cast(folder, mute) as cast:
        actors = [python(cast, "sleeps", wait), python(cast, "paused", wait)]
        for actor in actors:
            actor.wait_for("up", 30.0)
        os.kill(actors[1].popen.pid, signal.SIGSTOP)
        raise KeyboardInterrupt
    return actors


def test_no_process_outlives_an_interrupt(tmp_path):
    assert [runs(actor) for actor in interrupted(tmp_path)] == [False, False]


def test_no_process_outlives_a_scenario_that_is_killed(tmp_path):
    story = (
        "import sys\nfrom pathlib import Path\nfrom fedlearn.scenarios.actors import Cast\n"
        f"cast = Cast(Path({str(tmp_path)!r}), print)\n"
        "actor = cast.start('a', [sys.executable, '-c', "
        "\"import os, time; print('up', os.getpid(), flush=True); time.sleep(99)\"])\n"
        "actor.wait_for('up', 30.0)\nimport os\nos.kill(os.getpid(), 9)\n"
    )
    with Cast(tmp_path, mute) as cast:
        teller = python(cast, "teller", story)
        with pytest.raises(RunError, match=r"\(-9\)"):
            teller.finish(60.0)
        number = int((tmp_path / "a.log").read_text().split()[1])
    # Its end is the kernel's, within a moment.
    for _ in range(1000):
        if not is_alive(number):
            return
        time.sleep(0.01)
    raise AssertionError(f"process {number} goes on")


def is_alive(number: int) -> bool:
    """Tell whether a process runs; one that nobody has waited for yet does not."""
    try:
        with open(f"/proc/{number}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
