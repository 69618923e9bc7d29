"""Named points where a test can kill this process or make its disk fail.

FEDLEARN_FAILPOINTS="journal.before-sync=kill@3,journal.after-write=error@2" kills the
process (SIGKILL) when it reaches the first point for the 3rd time, and raises an
input/output error at the second point's 2nd time. "full" raises "no space left on
device". Without "@" it is the first time. The variable is read once, at import; without
it, reaching a point is a call that does nothing. `arm` arms a process anew, as one that
was forked.

FEDLEARN_FAILPOINTS_LOG names a file that gets a line with the point's name each time one
strikes.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Callable

from fedlearn.errors import ConfigError

VARIABLE = "FEDLEARN_FAILPOINTS"
LOG = "FEDLEARN_FAILPOINTS_LOG"

# Points of an agent.
AGENT = (
    # All payloads of a task are here, the work has not begun.
    "agent.task",
    # The answer is on this disk, nothing of it is sent.
    "agent.before-send",
    # A chunk is sent, others follow.
    "agent.half-sent",
    # The last chunk is sent.
    "agent.sent",
    # Acknowledged or not wanted, and still on this disk.
    "agent.before-discard",
    "agent.after-discard",
)

# Points of the process that works for an agent.
TRAINER = (
    # The model that it was sent is on disk.
    "agent.model-kept",
    "agent.training",
    # Trained; what error feedback carries over is on disk, the answer is not.
    "agent.residual-kept",
    "agent.before-answer",
    # Half of the answer is in its file, under another name.
    "agent.half-answer",
    # The answer is on disk, the agent does not know of it.
    "agent.after-answer",
)

# Points of a device that installs a release.
INSTALLATION = (
    "install.before-record",
    # The record is replaced, the agent has not acted on it.
    "install.after-record",
    # The free slot is out of the way.
    "install.cleared",
    # A file of the release is in the slot that is being written, others follow.
    "install.half-staged",
    # The slot is whole, no record names it.
    "install.staged",
)

# Points of a process that has a fleet learn again.
LEARNING = (
    "learn.before-record",
    "learn.after-record",
    # A step is done, the record does not say so.
    "learn.done",
)

# Points of a coordinator; those of its journal are `fedlearn.server.journal.POINTS`.
COORDINATOR = (
    # An answer is in the journal, not acknowledged.
    "coordinator.stored",
    # All answers of a round are here, whose are counted is not written down.
    "coordinator.before-closed",
    "coordinator.after-closed",
    "coordinator.before-checkpoint",
    "coordinator.after-checkpoint",
)

_ERRORS = {"error": errno.EIO, "full": errno.ENOSPC}
_KILL = "kill"


class Failpoints:
    """The points that a text arms, and how often each was reached."""

    def __init__(self, text: str, log: str = "") -> None:
        """Read "point=action@time,…"; log: a file that gets a line for each strike.

        Raises ConfigError for any other text.
        """
        # Point → its action, and the time at which it strikes, counted from 1.
        self._armed = dict(_parsed(part) for part in text.split(",") if part)
        self._reached: dict[str, int] = {}
        self._log = log
        self._lock = threading.Lock()

    def armed(self, point: str) -> bool:
        """Return whether the text names the point."""
        return point in self._armed

    def reach(self, point: str) -> None:
        """Kill this process or raise OSError at the point's time; else do nothing."""
        if point not in self._armed:
            return
        action, time = self._armed[point]
        with self._lock:
            self._reached[point] = self._reached.get(point, 0) + 1
            if self._reached[point] != time:
                return
            if self._log:
                with open(self._log, "a") as file:
                    file.write(f"{point}\n")
        if action == _KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(_ERRORS[action], os.strerror(_ERRORS[action]), point)


def _parsed(part: str) -> tuple[str, tuple[str, int]]:
    """Return (point, (action, time)) of "point=action@time"; raises ConfigError."""
    point, _, strike = part.strip().partition("=")
    action, separator, time = strike.partition("@")
    is_action = action == _KILL or action in _ERRORS
    is_time = time.isdecimal() and int(time) > 0
    if not point or not is_action or (separator and not is_time):
        raise ConfigError(
            f"{VARIABLE}: '{part}' is not point=kill@N, point=error@N or point=full@N, "
            "with N from 1"
        )
    return point, (action, int(time or 1))


def _nothing(point: str) -> None:
    pass


def _reach(point: str) -> None:
    _failpoints.reach(point)


def armed(point: str) -> bool:
    """Return whether a point is armed in this process."""
    return _failpoints.armed(point)


def arm(text: str, log: str = "") -> None:
    """Arm this process anew, in place of what the variables said.

    It does not reach modules that were imported while neither the variable nor a call
    of this had armed anything. Raises ConfigError for a text that is none.
    """
    global _failpoints, reach
    _failpoints = Failpoints(text, log)
    reach = _reach


_failpoints = Failpoints(os.environ.get(VARIABLE, ""), os.environ.get(LOG, ""))

# Without the variable a point costs one call of a function that does nothing.
reach: Callable[[str], None] = _reach if os.environ.get(VARIABLE) else _nothing
