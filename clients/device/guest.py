"""The agent as a guest on its device.

It asks the owner's rules before work begins, and watches over work while it runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from fedlearn.clients.device.readings import Energy, read, watts
from fedlearn.clients.device.rules import NO_RULES, Course, Decision, Rules, decide
from fedlearn.clients.device.sysfiles import ROOT

# How often the device is read while there is work: a board heats up by a few degrees in that time.
POLL_S = 2.0


class Pausable(Protocol):
    """What is needed of the process that works."""

    def send_signal(self, signal: int, /) -> None:
        """Send it a signal; raises ProcessLookupError when it has ended."""


class Guest:
    """The owner's rules applied to this device.

    It remembers the last decision, and the energy that the last piece of work took.
    """

    def __init__(
        self,
        rules: Rules,
        root: Path = ROOT,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Take the owner's rules. root: where the device is read. say: takes a line for the log."""
        self.rules = rules
        self.root = root
        self.say = say
        self.decision = Decision()
        self.energy = Energy()
        # Whether there is anything to see: rules, or what the device draws.
        self.watches = rules != NO_RULES or watts(root) is not None

    def ask(self) -> str | None:
        """Return why no work is taken now; None: work is taken."""
        # Reading a device takes longer than a short task.
        if self.rules == NO_RULES:
            return None
        self.decision = decide(self.rules, read(self.root), _minute(), self.decision)
        return self.decision.text

    async def watch(self, process: Pausable, poll_s: float | None = None) -> str:
        """Watch over a piece of work until it is to end, and return the reason.

        Cancel this when the work is done.

        The process is stopped and continued as the rules say. Meanwhile ``energy`` sums up what
        the whole device draws. poll_s: seconds between readings; None: POLL_S.
        """
        self.energy = Energy()
        self.energy.add(time.monotonic(), watts(self.root))
        # None: not paused; otherwise the moment at which the pause began.
        paused_at: float | None = None
        pause_s = POLL_S if poll_s is None else poll_s
        try:
            while True:
                # First of all: the rules allowed the work a moment ago, and short work is to
                # stay short.
                await asyncio.sleep(pause_s)
                now = time.monotonic()
                paused_s = 0.0 if paused_at is None else now - paused_at
                course = self._judge(now, paused_s)
                # Ending is the workshop's, which kills the process with this reason.
                if course is Course.END:
                    return self.decision.text or ""
                if course is Course.PAUSE and paused_at is None:
                    paused_at = now
                    self.say(f"the work is paused: {self.decision.text}")
                    _signal(process, signal.SIGSTOP)
                elif course is Course.GO_ON and paused_at is not None:
                    paused_at = None
                    self.say("the work goes on")
                    _signal(process, signal.SIGCONT)
        finally:
            # A stopped process would not end, nor notice that its agent has.
            if paused_at is not None:
                _signal(process, signal.SIGCONT)
            self.energy.add(time.monotonic(), watts(self.root))

    def _judge(self, now: float, paused_s: float) -> Course:
        """Read the device, and return what happens to the work under way."""
        reading = read(self.root)
        self.energy.add(now, reading.watts)
        self.decision = decide(
            self.rules, reading, _minute(), self.decision, working=True
        )
        return self.decision.course(self.rules, paused_s)


def _signal(process: Pausable, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)


def _minute() -> int:
    """Return the minute of the day, in the device's own time."""
    # Local time, as the owner's hours are meant in it.
    now = time.localtime()
    return now.tm_hour * 60 + now.tm_min
