"""A watchdog over runs of onnxruntime: one that takes longer than it may is ended.

onnxruntime looks at ``RunOptions.terminate`` before each operation, so a run ends with the
operation that it is at. One thread of the process watches all runs. It sleeps until the
earliest end that it knows of, and a run that ends in time does not wake it: to watch one costs
some microseconds.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


# `eq=False`: each is itself.
@dataclass(eq=False)
class WatchedRun:
    """A run under way. options: its RunOptions. end_s: by `time.monotonic`."""

    options: Any
    end_s: float
    is_ended: bool = False


class Watchdog:
    """See the module. Any thread may use it."""

    def __init__(self) -> None:
        """Begin without a thread: the first run starts it."""
        self._condition = threading.Condition()
        self._runs: set[WatchedRun] = set()
        # When the thread looks next; infinite: when it is told.
        self._looks_s = math.inf
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def watching(self, options: Any, seconds: float) -> Iterator[WatchedRun]:
        """Have a run's ``options.terminate`` set once it has taken so many seconds.

        Yields what says afterwards whether it was ended, or took longer all the same.
        """
        run = WatchedRun(options, time.monotonic() + seconds)
        with self._condition:
            self._runs.add(run)
            self._start()
            if run.end_s < self._looks_s:
                self._condition.notify()
        try:
            yield run
        finally:
            with self._condition:
                self._runs.discard(run)
            # A single long operation lets nobody end it.
            if time.monotonic() > run.end_s:
                run.is_ended = True

    def _start(self) -> None:
        """Start the thread, or another one in a process that was forked."""
        if self._thread is None or not self._thread.is_alive():
            self._looks_s = math.inf
            # It must not keep a process that has ended otherwise.
            self._thread = threading.Thread(
                target=self._watch, name="fedlearn-watchdog", daemon=True
            )
            self._thread.start()

    def _watch(self) -> None:
        with self._condition:
            while True:
                now_s = time.monotonic()
                for run in self._runs:
                    if run.end_s <= now_s and not run.is_ended:
                        run.options.terminate = True
                        run.is_ended = True
                ends = [run.end_s for run in self._runs if not run.is_ended]
                self._looks_s = min(ends, default=math.inf)
                wait_s = None if not ends else max(0.0, self._looks_s - now_s)
                self._condition.wait(wait_s)


# Of the whole process.
WATCHDOG = Watchdog()
