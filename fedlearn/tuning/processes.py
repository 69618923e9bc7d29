"""Trials side by side, each in a process of its own.

A run seeds the global generators of its process: they must be nobody else's. A process
that dies is a failed trial. Processes are forked from a server that has imported what a
run needs: a trial starts in milliseconds, and nothing of the parent's reaches it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait

from fedlearn.tuning.trial import TrialJob, TrialOutcome, run


def outcomes(jobs: Sequence[TrialJob]) -> Iterator[tuple[int, TrialOutcome]]:
    """Run jobs at the same time; yields (position, outcome) as they end.

    What still runs when the iteration is left is ended.
    """
    if len(jobs) < 2:
        # No process is needed.
        for position, job in enumerate(jobs):
            yield position, run(job)
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fedlearn.tuning.trial"])
    running = {}
    try:
        for position, job in enumerate(jobs):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(
                target=_work, args=(job, theirs), name=job.folder.name
            )
            process.start()
            # So that ours ends when the process does.
            theirs.close()
            running[ours] = position, process
        while running:
            # `wait` takes sockets too; these are the pipes that were given.
            for pipe in wait(list(running)):
                position, process = running.pop(pipe)  # type: ignore[call-overload]
                outcome = _receive(pipe)  # type: ignore[arg-type]
                process.join()
                if outcome is None:
                    reason = f"its process died (exit code {process.exitcode})"
                    outcome = TrialOutcome("failed", reason)
                yield position, outcome
    finally:
        for _, process in running.values():
            process.terminate()
            process.join()


def _receive(pipe: Connection) -> TrialOutcome | None:
    """Return what a process sent; None: it died before."""
    with contextlib.closing(pipe), contextlib.suppress(EOFError):
        outcome: TrialOutcome = pipe.recv()
        return outcome
    return None


def _work(job: TrialJob, pipe: Connection) -> None:
    """Run a job in this process, and send its outcome."""
    threading.Thread(target=_die_with_parent, daemon=True).start()
    # Ctrl-C reaches the whole group; the parent says what it means.
    with contextlib.suppress(KeyboardInterrupt):
        pipe.send(run(job))


def _die_with_parent() -> None:
    """End this process when its parent ends.

    A trial that goes on alone would hold the lock of its folder against --resume.
    """
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)
