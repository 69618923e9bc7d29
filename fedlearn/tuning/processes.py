"""Trials side by side: each in a process of its own, so that a run's seeded global generators are nobody else's.

A process that dies is a failed trial. Processes are forked from a server that has imported what a run needs: a trial starts
in milliseconds, and nothing that the parent holds reaches it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait

from fedlearn.tuning.trial import Job, Outcome, run


def outcomes(jobs: Sequence[Job]) -> Iterator[tuple[int, Outcome]]:
    """Run jobs at the same time; yields (position, outcome) as they end. What still runs when this is left is ended."""
    if len(jobs) < 2:  # no process is needed
        yield from ((position, run(job)) for position, job in enumerate(jobs))
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
            theirs.close()
            running[ours] = position, process
        while running:
            for pipe in wait(list(running)):
                position, process = running.pop(pipe)  # type: ignore[call-overload]  # the pipes that were given
                outcome = _answer(pipe)  # type: ignore[arg-type]
                process.join()
                yield (
                    position,
                    outcome
                    or Outcome(
                        "failed", f"its process died (exit code {process.exitcode})"
                    ),
                )
    finally:
        for _, process in running.values():
            process.terminate()
            process.join()


def _answer(pipe: Connection) -> Outcome | None:
    with contextlib.closing(pipe), contextlib.suppress(EOFError):
        found: Outcome = pipe.recv()
        return found
    return None


def _work(job: Job, pipe: Connection) -> None:
    threading.Thread(target=_die_with_parent, daemon=True).start()
    with contextlib.suppress(
        KeyboardInterrupt
    ):  # Ctrl-C reaches the whole group; the parent says what it means
        pipe.send(run(job))


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(
            1
        )  # a trial that goes on alone would hold the lock of its folder against --resume
