"""Processes of a scenario end with it, and what fails is named."""

import os

import pytest

from fedlearn.errors import RunError
from fedlearn.scenarios.processes import processes


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_all_end_when_the_story_breaks_off(tmp_path):
    pids: list[int] = []

    def story():
        with processes(tmp_path) as group:
            group.start("fleet", "fleet", "fleet", "--insecure")
            address = tmp_path / "fleet" / "address.json"
            group.wait(address.exists, "the fleet listens")
            pids.extend(process.pid for process in group._running.values())
            assert all(map(is_there, pids))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        story()
    assert pids and not any(map(is_there, pids))


def test_a_command_that_fails_is_named_with_its_reason(tmp_path):
    with processes(tmp_path) as group:
        assert group.run("--version").startswith("fedlearn ")
        with pytest.raises(
            RunError, match=r"'fedlearn sign nowhere' failed: .*name a key"
        ):
            group.run("sign", "nowhere")
        group.start("fleet", "fleet")  # no folder
        with pytest.raises(
            RunError, match=r"fleet ended before it listens: fedlearn: .*DIR"
        ):
            group.wait(lambda: False, "it listens")
