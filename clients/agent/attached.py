"""What every process has in common that works for an agent: its pipe, its end, its folder.

`fedlearn.clients.agent.work` is the one that trains; `fedlearn.apps.device` runs a Flower
app. Neither torch nor numpy is imported here.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import IO

from fedlearn.clients.agent import pipe
from fedlearn.errors import ClientError
from fedlearn.system.files import make_folder, private, sweep
from fedlearn.system.parent import end_with_parent

# Added to the badness by which Linux chooses a process to kill (-1000 to 1000; proc(5)). The
# agent has 0, so this process is killed first.
_OOM_SCORE = "500"


class Declined(ClientError):
    """The device's owner does not allow this, or the device cannot do it."""


def listen(source: IO[bytes], messages: SimpleQueue[pipe.Message]) -> None:
    """Put the agent's messages in a queue, and end this process when the agent ends.

    It ends in the middle of its work too: nobody waits for that work any more, and an agent
    that starts again has it done by a process of its own.
    """
    try:
        while (message := pipe.read(source)) is not None:
            messages.put(message)
    finally:
        # Not sys.exit, which would end this thread alone and leave the training
        # running.
        os._exit(0)


def end_with_agent() -> None:
    """Have the kernel kill this process with the agent, and before the agent when memory runs out.

    `listen` does not suffice: a paused process reads nothing.
    """
    end_with_parent()
    # There is no /proc where the system is not Linux.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)


def lock(folder: Path, parts: Sequence[str]) -> IO[bytes]:
    """Wait until no other process works in the run's folder, and lock it while the file is open.

    The process of an agent that was killed may not have ended yet. parts: folders inside whose
    unfinished files are removed. Raises OSError.
    """
    make_folder(folder)
    file = open(folder / ".lock", "wb", opener=private)  # noqa: SIM115
    fcntl.flock(file, fcntl.LOCK_EX)
    # That process may have been killed while it wrote any of these.
    for part in ("", *parts):
        sweep(folder / part)
    return file
