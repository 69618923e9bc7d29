"""Named points where a test can kill this process or make its disk fail.

FEDLEARN_FAILPOINTS="journal.before-sync=kill@3,journal.after-write=error@2" kills the process (SIGKILL) when it reaches
the first point for the 3rd time, and raises an input/output error at the second point's 2nd time. "full" raises "no space
left on device". Without "@" it is the first time. The variable is read once, at import; without it, reaching a point is
a call that does nothing.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Callable

from fedlearn.errors import ConfigError

VARIABLE = "FEDLEARN_FAILPOINTS"

_ERRORS = {"error": errno.EIO, "full": errno.ENOSPC}
_KILL = "kill"


class Failpoints:
    """The points that a text arms, and how often each was reached."""

    def __init__(self, text: str) -> None:
        """Read "point=action@time,…"; raises ConfigError for anything else."""
        self._armed: dict[str, tuple[str, int]] = {}
        self._reached: dict[str, int] = {}
        self._lock = threading.Lock()
        for part in filter(None, text.split(",")):
            point, _, what = part.strip().partition("=")
            action, at, time = what.partition("@")
            if not point or action not in (_KILL, *_ERRORS) or (at and not (time.isdecimal() and int(time))):
                raise ConfigError(f"{VARIABLE}: '{part}' is not point=kill@N, point=error@N or point=full@N, with N from 1")
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
        if action == _KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(_ERRORS[action], os.strerror(_ERRORS[action]), point)


def _nothing(point: str) -> None:
    pass


_failpoints = Failpoints(os.environ.get(VARIABLE, ""))

armed: Callable[[str], bool] = _failpoints.armed
reach: Callable[[str], None] = _failpoints.reach if os.environ.get(VARIABLE) else _nothing
