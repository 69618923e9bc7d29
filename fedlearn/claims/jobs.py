"""Runs side by side, each in a process and a folder of its own.

What ends one run does not end the others, and a run goes on from where it ended.
"""

from __future__ import annotations

import shutil
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fedlearn.claims.processes import RunProcess, RunRequest
from fedlearn.claims.runs import PlannedRun, cores_each, with_workers
from fedlearn.config import to_toml
from fedlearn.errors import RecordError, UserError, one_line
from fedlearn.records.names import CHECKPOINT_FOLDER
from fedlearn.records.writing import owned
from fedlearn.system import files

# Seconds between two looks at the processes: short against a run, and no load.
POLL_S = 0.1

# Seconds in which a run that is interrupted may end its round's files. A checkpoint of a
# large model takes some of them.
PATIENCE_S = 30.0


class Watch(Protocol):
    """What shows how runs go."""

    def begun(self, run: PlannedRun, resumed: bool) -> None:
        """Show that a run starts, or goes on."""

    def look(self, runs: Iterable[PlannedRun]) -> None:
        """Look at the runs that go on."""

    def ended(self, run: PlannedRun, error: str | None) -> None:
        """Show that a run has ended. error: why it gave no result."""


@dataclass
class _RunningJob:
    """A run that goes on. process: None while a process that is not ours works on it."""

    run: PlannedRun
    process: RunProcess | None = None

    @property
    def over(self) -> bool:
        """Tell whether its process, ours or another's, has ended."""
        if self.process is None:
            return not owned(self.run.folder)
        return self.process.poll() is not None


def run_all(runs: Iterable[PlannedRun], jobs: int, watch: Watch) -> dict[Path, str]:
    """Make the runs that are not finished, at most ``jobs`` at once.

    Returns why some gave no result: folder → reason. A folder that another process writes
    to, such as a run that outlived a killed command, is waited for.

    Raises UserError when the input of a run is wrong, RecordError when its folder cannot
    be written. Whatever is raised, the runs have been interrupted.
    """
    waiting = deque(run for run in runs if not run.finished)
    running: list[_RunningJob] = []
    failed: dict[Path, str] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(_begin(waiting.popleft(), jobs, watch))
            watch.look(job.run for job in running)
            # Polling: one call cannot wait both for processes of ours and for others' locks.
            time.sleep(POLL_S)
            for job in [job for job in running if job.over]:
                running.remove(job)
                if job.process is None and not job.run.finished:
                    # Another process left it unfinished: it is ours to go on with.
                    waiting.appendleft(job.run)
                    continue
                error = _error(job)
                if error is not None:
                    failed[job.run.folder] = error
                watch.ended(job.run, error)
    finally:
        _interrupt(running)
    return failed


def _begin(run: PlannedRun, jobs: int, watch: Watch) -> _RunningJob:
    """Start a run, or go on with it; raises RecordError for a folder beyond writing."""
    resumed = run.folder.exists()
    watch.begun(run, resumed)
    # Two writers would spoil the folder; a run that outlived us is as good as ours.
    if owned(run.folder):
        return _RunningJob(run)
    config = _beside(run.folder, "toml")
    log = _beside(run.folder, "log")
    try:
        files.make_folder(run.folder.parent)
        with open(config, "w", opener=files.private) as file:
            file.write(to_toml(with_workers(run, cores_each(jobs))))
        with open(log, "wb", opener=files.private):
            pass
    except OSError as error:
        raise RecordError(
            f"cannot write '{error.filename or config}': {error.strerror}; "
            "choose another --runs"
        ) from None
    request = RunRequest(config, run.folder, log, run.agents, resumed)
    return _RunningJob(run, RunProcess(request))


def _beside(folder: Path, kind: str) -> Path:
    """Return a run's file beside its folder, which holds nothing before the run starts."""
    return folder.with_name(f"{folder.name}.{kind}")


def _error(job: _RunningJob) -> str | None:
    """Return why an ended run gave no result; None: it gave one.

    What only a resume would need is removed from a run with a result. Raises UserError
    when the input of the run is wrong.
    """
    if job.process is None:
        return None
    code = job.process.poll()
    if code == 0 and job.run.finished:
        shutil.rmtree(job.run.folder / CHECKPOINT_FOLDER, ignore_errors=True)
        return None
    error = _last_line(job.run.folder) or f"it ended with code {code}"
    # A wrong input is wrong for the other seeds too: it ends all.
    if code == UserError.exit_code:
        raise UserError(f"{job.run.label}: {error}")
    return error


def _last_line(folder: Path) -> str:
    """Return the last line of a run's log, the reason of its end; "" for an empty log."""
    text = _beside(folder, "log").read_text(errors="replace").strip()
    if not text:
        return ""
    return one_line(UserError(text.splitlines()[-1].removeprefix("fedlearn: ")))


def _interrupt(running: Iterable[_RunningJob]) -> None:
    """End what still goes on as Ctrl-C does, and wait for it.

    Then each checkpoint is whole, and each folder free.
    """
    processes = [job.process for job in running if job.process and not job.over]
    for process in processes:
        process.interrupt()
    # Together: they end their rounds side by side.
    until = time.monotonic() + PATIENCE_S
    for process in processes:
        if not process.wait(max(0.1, until - time.monotonic())):
            process.kill()
