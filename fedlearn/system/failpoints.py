"""Named points where a test can kill this process or make its disk fail.

FEDLEARN_FAILPOINTS="journal.before-sync=kill@3,journal.after-write=error@2" kills the process (SIGKILL) when it reaches
the first point for the 3rd time, and raises an input/output error at the second point's 2nd time. "full" raises "no space
left on device". Without "@" it is the first time. The variable is read once, at import; without it, reaching a point is
a call that does nothing. `arm` arms a process anew, as one that was forked.

FEDLEARN_FAILPOINTS_LOG names a file that gets a line with the point's name each time one strikes.
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

AGENT = (
    "agent.task",  # all payloads of a task are here, the work has not begun
    "agent.before-send",  # the answer is on this disk, nothing of it is sent
    "agent.half-sent",  # a chunk is sent, others follow
    "agent.sent",  # the last chunk is sent
    "agent.before-discard",  # acknowledged or not wanted, and still on this disk
    "agent.after-discard",
)
"""Points of an agent."""

TRAINER = (
    "agent.model-kept",  # the model that it was sent is on disk
    "agent.training",
    "agent.residual-kept",  # trained; what error feedback carries over is on disk, the answer is not
    "agent.before-answer",
    "agent.half-answer",  # half of the answer is in its file, under another name
    "agent.after-answer",  # the answer is on disk, the agent does not know of it
)
"""Points of the process that works for an agent."""

COORDINATOR = (
    "coordinator.stored",  # an answer is in the journal, not acknowledged
    "coordinator.before-closed",  # all answers of a round are here, whose are counted is not written down
    "coordinator.after-closed",
    "coordinator.before-checkpoint",
    "coordinator.after-checkpoint",
)
"""Points of a coordinator; those of its journal are `fedlearn.server.journal.POINTS`."""

_ERRORS = {"error": errno.EIO, "full": errno.ENOSPC}
_KILL = "kill"


class Failpoints:
    """The points that a text arms, and how often each was reached."""

    def __init__(self, text: str, log: str = "") -> None:
        """Read "point=action@time,…"; log: a file that is told of each strike. Raises ConfigError for anything else."""
        self._armed: dict[str, tuple[str, int]] = {}
        self._reached: dict[str, int] = {}
        self._log = log
        self._lock = threading.Lock()
        for part in filter(None, text.split(",")):
            point, _, what = part.strip().partition("=")
            action, at, time = what.partition("@")
            if (
                not point
                or action not in (_KILL, *_ERRORS)
                or (at and not (time.isdecimal() and int(time)))
            ):
                raise ConfigError(
                    f"{VARIABLE}: '{part}' is not point=kill@N, point=error@N or point=full@N, with N from 1"
                )
            self._armed[point] = action, int(time or 1)

    def armed(self, point: str) -> bool:
        """Tell whether the text names the point."""
        return point in self._armed

    def reach(self, point: str) -> None:
        """Kill this process or raise OSError if it is the point's time; otherwise do nothing."""
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


def _nothing(point: str) -> None:
    pass


def _reach(point: str) -> None:
    _failpoints.reach(point)


def armed(point: str) -> bool:
    """Tell whether a point is armed in this process."""
    return _failpoints.armed(point)


def arm(text: str, log: str = "") -> None:
    """Arm this process anew, in place of what the variables said; raises ConfigError.

    It does not reach modules that were imported while neither the variable nor a call of this had armed anything.
    """
    global _failpoints, reach
    _failpoints, reach = Failpoints(text, log), _reach


_failpoints = Failpoints(os.environ.get(VARIABLE, ""), os.environ.get(LOG, ""))

reach: Callable[[str], None] = _reach if os.environ.get(VARIABLE) else _nothing
