"""What an app's code may change of its process, and how it is put back.

A worker answers messages of many nodes, one after another. A node that changed the working
directory, say, would change what the next one sees, and which one that is depends on the
number of workers.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

# Those that programs take for themselves. SIGCHLD is left alone: torch sets its own once, for
# loaders whose workers die.
_SIGNALS = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGALRM,
    signal.SIGUSR1,
    signal.SIGUSR2,
)


@dataclass(frozen=True)
class Surroundings:
    """A process as it was: folder, search path, variables, streams, signals, threads."""

    folder: str
    path: tuple[str, ...]
    variables: dict[str, str]
    streams: tuple[Any, Any]
    signals: dict[signal.Signals, Any]
    threads: frozenset[int]

    @classmethod
    def now(cls) -> Surroundings:
        """Return the surroundings of this moment."""
        return cls(
            os.getcwd(),
            tuple(sys.path),
            dict(os.environ),
            (sys.stdout, sys.stderr),
            {number: signal.getsignal(number) for number in _SIGNALS},
            frozenset(_idents()),
        )

    def restore(self) -> None:
        """Put back what has changed; threads cannot be."""
        # Its folder may be gone.
        with contextlib.suppress(OSError):
            os.chdir(self.folder)
        if tuple(sys.path) != self.path:
            sys.path = list(self.path)
        if dict(os.environ) != self.variables:
            os.environ.clear()
            os.environ.update(self.variables)
        sys.stdout, sys.stderr = self.streams
        # Only the main thread may: what another one runs cannot have set any.
        if threading.current_thread() is not threading.main_thread():
            return
        # An alarm would ring while another node is at work.
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, action in self.signals.items():
            # None: set by C code, which Python cannot put back.
            if action is not None and signal.getsignal(number) is not action:
                signal.signal(number, action)

    def new_threads(self) -> list[threading.Thread]:
        """Return the threads that were begun since, still run, and outlive the program."""
        return [
            thread
            for thread in threading.enumerate()
            if thread.ident not in self.threads and not thread.daemon
        ]


def _idents() -> Iterator[int]:
    for thread in threading.enumerate():
        if thread.ident is not None:
            yield thread.ident


@contextmanager
def put_back() -> Iterator[Surroundings]:
    """Put back, after the block, what code inside it has changed of this process."""
    surroundings = Surroundings.now()
    try:
        yield surroundings
    finally:
        surroundings.restore()
