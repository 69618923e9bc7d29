"""Processes that end with the one that started them, however that ends."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading

# PR_SET_PDEATHSIG of linux/prctl.h.
_PARENT_DEATH_SIGNAL = 1


def end_with_parent(parent: int | None = None) -> None:
    """Have the kernel kill this process when the thread ends that started it.

    A pipe that closes does not suffice: a process in a user's code, or a paused one, reads
    nothing. parent: the number of the process that started this one; where it has ended
    already, this process ends here.
    """
    # There is no prctl where the system is not Linux.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    # It ended before the kernel was asked.
    if parent is not None and os.getppid() != parent:
        os._exit(1)


def end_forks_with_this() -> None:
    """Let the processes that this one forks from now on end with it.

    Those that another thread than the main one forks are left alone: the kernel would
    kill them when that thread ends.
    """
    forked_by_main = False

    def note_thread() -> None:
        nonlocal forked_by_main
        # In the new process the thread that forked would be the main one.
        forked_by_main = threading.current_thread() is threading.main_thread()

    def follow() -> None:
        if forked_by_main:
            end_with_parent()

    os.register_at_fork(before=note_thread, after_in_child=follow)
