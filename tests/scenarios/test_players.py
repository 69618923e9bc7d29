"""Processes of a scenario: what they say, how they fail, and that none outlives it."""

import contextlib
import os
import signal
import sys
import time

import pytest

from fedlearn.errors import RunError
from fedlearn.scenarios.players import Troupe


def mute(text):
    pass


def python(troupe, name, text):
    return troupe.start(name, [sys.executable, "-c", text])


def runs(player) -> bool:
    return player.popen.poll() is None


def test_a_command_gives_what_it_says(tmp_path):
    lines: list[str] = []
    with Troupe(tmp_path, lines.append) as troupe:
        said = troupe.run("help", "scenario", "--help")
    assert "traffic" in said
    assert lines == ["$ fedlearn scenario --help"]


def test_a_command_that_fails_tells_its_last_line(tmp_path):
    with (
        Troupe(tmp_path, mute) as troupe,
        pytest.raises(RunError, match=r"show failed \(2\)"),
    ):
        troupe.run("show", "package", "show", "nothing")


def test_what_is_not_said_is_an_error(tmp_path):
    with Troupe(tmp_path, mute) as troupe:
        player = python(troupe, "a", "print('one')")
        assert player.wait_for("one", 30.0) == "one"
        with pytest.raises(RunError, match="a did not say 'two': one"):
            player.wait_for("two", 30.0)


def test_a_log_goes_on_and_its_reader_begins_anew(tmp_path):
    with Troupe(tmp_path, mute) as troupe:
        python(troupe, "a", "print('one')").finish(30.0)
        again = python(troupe, "a", "print('two')")
        again.finish(30.0)
        assert again.said() == "two\n"
    assert (tmp_path / "a.log").read_text() == "one\ntwo\n"


def interrupted(folder):
    """Return the processes of a scenario that Ctrl-C ends, one of which is paused."""
    wait = "import time; print('up', flush=True); time.sleep(99)"
    players = []
    with contextlib.suppress(KeyboardInterrupt), Troupe(folder, mute) as troupe:
        players = [python(troupe, "sleeps", wait), python(troupe, "paused", wait)]
        for player in players:
            player.wait_for("up", 30.0)
        os.kill(players[1].popen.pid, signal.SIGSTOP)
        raise KeyboardInterrupt
    return players


def test_a_condition_is_waited_for_as_long_as_all_run(tmp_path):
    with Troupe(tmp_path) as troupe:
        player = python(troupe, "a", "input(); print('a')")
        troupe.wait(lambda: True, "it begins")
        with pytest.raises(RunError, match=r"before it counts: .*EOFError"):
            troupe.wait(lambda: False, "it counts")
        # Its end is no news any more, so only time ends this.
        with pytest.raises(RunError, match="a failed"):
            player.finish(30.0)
        with pytest.raises(RunError, match="it counts: not within 0 s"):
            troupe.wait(lambda: False, "it counts", patience_s=0.1)


def test_a_kill_ends_what_a_process_has_started(tmp_path):
    story = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)'])\n"
        "print('child', child.pid, flush=True)\ntime.sleep(99)\n"
    )
    with Troupe(tmp_path) as troupe:
        player = python(troupe, "a", story)
        number = int(player.wait_for("child", 30.0).split()[1])
        player.kill()
    wait_for_end(number)


def test_no_process_outlives_an_interrupt(tmp_path):
    assert [runs(player) for player in interrupted(tmp_path)] == [False, False]


def test_no_process_outlives_a_scenario_that_is_killed(tmp_path):
    story = (
        "import sys\nfrom pathlib import Path\nfrom fedlearn.scenarios.players import Troupe\n"
        f"troupe = Troupe(Path({str(tmp_path)!r}), print)\n"
        "player = troupe.start('a', [sys.executable, '-c', "
        "\"import os, time; print('up', os.getpid(), flush=True); time.sleep(99)\"])\n"
        "player.wait_for('up', 30.0)\nimport os\nos.kill(os.getpid(), 9)\n"
    )
    with Troupe(tmp_path, mute) as troupe:
        teller = python(troupe, "teller", story)
        with pytest.raises(RunError, match=r"\(-9\)"):
            teller.finish(60.0)
        number = int((tmp_path / "a.log").read_text().split()[1])
    wait_for_end(number)


def wait_for_end(number: int) -> None:
    """Its end is the kernel's, within a moment."""
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
