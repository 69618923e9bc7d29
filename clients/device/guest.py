"""The agent as a guest on its device: asks the owner's rules before work begins, and watches over it while it runs."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from fedlearn.clients.device.readings import ROOT, Energy, read, watts
from fedlearn.clients.device.rules import NO_RULES, Course, Decision, Rules, decide

POLL_S = 2.0
"""How often the device is read while there is work: a board heats up by a few degrees in that time."""


class Process(Protocol):
    """What is needed of the process that works."""

    def send_signal(self, signal: int, /) -> None:
        """Send it a signal; raises ProcessLookupError when it has ended."""


class Guest:
    """Remembers the last decision, and what the last piece of work drew."""

    def __init__(
        self,
        rules: Rules,
        root: Path = ROOT,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Take the owner's rules. say: where a pause is told."""
        self.rules, self.root, self.say = rules, root, say
        self.decision = Decision()
        self.energy = Energy()
        self.watches = rules != NO_RULES or watts(root) is not None
        """Whether there is anything to see: rules, or what the device draws."""

    def ask(self) -> str | None:
        """Return why no work is taken now; None: it is."""
        if self.rules == NO_RULES:  # reading a device takes longer than a short task
            return None
        self.decision = decide(self.rules, read(self.root), _minute(), self.decision)
        return self.decision.text

    async def watch(self, process: Process, poll_s: float | None = None) -> str:
        """Watch over a piece of work, to be cancelled when it is done: return the reason when it is to end.

        poll_s: POLL_S unless given. The process stands still while the rules say so. Meanwhile ``energy`` sums up what the whole
        device draws.
        """
        self.energy = Energy()
        self.energy.add(time.monotonic(), watts(self.root))
        paused: float | None = None
        pause_s = POLL_S if poll_s is None else poll_s
        try:
            while True:
                await asyncio.sleep(
                    pause_s
                )  # first: all was well a moment ago, and short work is to stay short
                now, reading = time.monotonic(), read(self.root)
                self.energy.add(now, reading.watts)
                self.decision = decide(
                    self.rules, reading, _minute(), self.decision, working=True
                )
                course = self.decision.course(
                    self.rules, 0.0 if paused is None else now - paused
                )
                if course is Course.END:
                    return self.decision.text or ""
                if course is Course.PAUSE and paused is None:
                    paused = now
                    self.say(f"the work is paused: {self.decision.text}")
                    _signal(process, signal.SIGSTOP)
                elif course is Course.GO_ON and paused is not None:
                    paused = None
                    self.say("the work goes on")
                    _signal(process, signal.SIGCONT)
        finally:
            if paused is not None:
                _signal(process, signal.SIGCONT)
            self.energy.add(time.monotonic(), watts(self.root))


def _signal(process: Process, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)


def _minute() -> int:
    """Return the minute of the day, in the device's own time."""
    now = time.localtime()
    return now.tm_hour * 60 + now.tm_min
