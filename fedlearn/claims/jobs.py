"""Runs side by side, each a command of its own in a folder of its own: what ends it, ends it alone, and it goes on from there."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from fedlearn.claims.runs import Wanted, cores_each, with_workers
from fedlearn.config import to_toml
from fedlearn.errors import RecordError, UserError, one_line
from fedlearn.records.names import CHECKPOINT_FOLDER
from fedlearn.records.writing import owned

POLL_S = 0.1

PATIENCE_S = 30.0
"""How long a run that is interrupted may take to end its round's files."""


class Watch(Protocol):
    """What shows how runs go."""

    def begun(self, run: Wanted, resumed: bool) -> None:
        """Show that a run starts, or goes on."""

    def look(self, runs: Iterable[Wanted]) -> None:
        """Look at the runs that go on."""

    def ended(self, run: Wanted, error: str | None) -> None:
        """Show that a run has ended. error: why it gave no result."""


@dataclass
class _Going:
    run: Wanted
    process: subprocess.Popen[bytes] | None = (
        None  # None: another process is at work on it
    )
    log: IO[bytes] | None = None


def run_all(runs: Iterable[Wanted], jobs: int, watch: Watch) -> dict[Path, str]:
    """Make the runs that are not finished, at most ``jobs`` at once, and return why some gave no result: folder → reason.

    A folder that another process writes to, such as a run that outlived a killed command, is waited for. Raises UserError when
    the input of a run is wrong, RecordError when its folder cannot be written. Whatever is raised, the runs have been interrupted.
    """
    waiting = deque(run for run in runs if not run.finished)
    going: list[_Going] = []
    failed: dict[Path, str] = {}
    try:
        while waiting or going:
            while waiting and len(going) < jobs:
                going.append(_begin(waiting.popleft(), jobs, watch))
            watch.look(one.run for one in going)
            time.sleep(POLL_S)
            for one in [one for one in going if _over(one)]:
                going.remove(one)
                if (
                    one.process is None and not one.run.finished
                ):  # who was at work on it has left it
                    waiting.appendleft(one.run)
                    continue
                error = _result(one)
                if error is not None:
                    failed[one.run.folder] = error
                watch.ended(one.run, error)
    finally:
        _interrupt(going)
    return failed


def _over(one: _Going) -> bool:
    return (
        not owned(one.run.folder)
        if one.process is None
        else one.process.poll() is not None
    )


def _begin(run: Wanted, jobs: int, watch: Watch) -> _Going:
    folder = run.folder
    resumed = folder.exists()
    watch.begun(run, resumed)
    if owned(folder):
        return _Going(run)
    config, log = _beside(folder, "toml"), _beside(folder, "log")
    command = (
        ["simulate"] if not run.agents else ["serve", "--local-agents", str(run.agents)]
    )
    command = [
        sys.executable,
        "-m",
        f"fedlearn.{command[0]}",
        str(config),
        *command[1:],
        "--quiet",
        "--out",
        str(folder),
    ]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(to_toml(with_workers(run, cores_each(jobs))))
        written = log.open("wb")
    except OSError as error:
        raise RecordError(
            f"cannot write '{error.filename or config}': {error.strerror}; choose another --runs"
        ) from None
    # In a session of its own: Ctrl-C is ours to pass on.
    process = subprocess.Popen(
        [*command, "--resume"] if resumed else command,
        stdin=subprocess.DEVNULL,
        stdout=written,
        stderr=written,
        start_new_session=True,
    )
    return _Going(run, process, written)


def _beside(folder: Path, kind: str) -> Path:
    return folder.with_name(f"{folder.name}.{kind}")


def _result(one: _Going) -> str | None:
    """Return why an ended run gave no result; None: it gave one, and what only a resume would need is removed."""
    if one.process is None or one.log is None:
        return None
    one.log.close()
    if one.process.returncode == 0 and one.run.finished:
        shutil.rmtree(one.run.folder / CHECKPOINT_FOLDER, ignore_errors=True)
        return None
    told = (
        _beside(one.run.folder, "log").read_text(errors="replace").strip().splitlines()
    )
    said = (
        one_line(UserError(told[-1].removeprefix("fedlearn: ")))
        if told
        else f"it ended with code {one.process.returncode}"
    )
    if one.process.returncode == UserError.exit_code:
        raise UserError(f"{one.run.label}: {said}")
    return said


def _interrupt(going: Iterable[_Going]) -> None:
    """End what still goes on as Ctrl-C does, and wait for it: its checkpoint is whole, and its folder free."""
    ours = [
        one.process
        for one in going
        if one.process is not None and one.process.poll() is None
    ]
    for process in ours:
        process.send_signal(signal.SIGINT)
    until = time.monotonic() + PATIENCE_S
    for process in ours:
        try:
            process.wait(max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
