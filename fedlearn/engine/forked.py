"""How a worker process of the pool begins."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection

from fedlearn.engine.runner import single_thread
from fedlearn.system.parent import end_forks_with_this, end_with_parent


def flush_output() -> None:
    """Write out what a child would otherwise write a second time."""
    for stream in (sys.stdout, sys.stderr):
        # A program may have been started without one. A full one is told by the next
        # thing that is printed there.
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):
                stream.flush()


def become_worker(parent: int, inherited: Sequence[Connection]) -> None:
    """Make the process that was just forked a worker of its parent.

    parent: its process number. inherited: the parent's ends of pipes.
    """
    # A client that sleeps, or computes for hours, must not outlive a killed run.
    end_with_parent(parent)
    # Nor must the processes of a DataLoader in a user's code. The parent still ends this
    # process as a daemon; only here it may have children of its own.
    end_forks_with_this()
    multiprocessing.current_process().daemon = False
    # Ctrl-C reaches the whole process group; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # A worker that wakes must not hold up the parent, which has other workers to wake.
    if hasattr(os, "SCHED_BATCH"):
        # Refused from an idle class or in a sandbox; it is only a matter of speed.
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    # Otherwise a dead parent's pipes would stay open in its children, which would then
    # wait for ever.
    for connection in inherited:
        connection.close()
    single_thread()
