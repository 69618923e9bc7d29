"""A run in a process of its own, through the Python API.

Processes are forked from a server that has imported what a run needs, so that many runs
cost one start. A crash ends its own run alone.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from fedlearn.errors import FedlearnError, one_line
from fedlearn.system.files import private

# As shells have it, after Ctrl-C.
_INTERRUPTED = 130

# What a run imports before its first round. Without gRPC of ours: of a fleet's run it is
# imported after the fork, since its threads would not come along.
_PRELOAD = ["fedlearn.runs.api", "fedlearn.runs.simulation", "fedlearn.engine.pool"]


@dataclass(frozen=True)
class RunRequest:
    """What a process is to run. agents: local ones that train; 0: a simulation."""

    config: Path
    folder: Path
    log: Path
    agents: int
    resume: bool


class RunProcess:
    """One run that goes on; what it prints goes to its log."""

    def __init__(self, request: RunRequest) -> None:
        """Start the run."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_PRELOAD)
        self._ready, child_end = context.Pipe(duplex=False)
        self._process = context.Process(target=_work, args=(request, child_end))
        self._process.start()
        # The child has the only copy of its end, so that its death makes ours readable.
        child_end.close()

    def poll(self) -> int | None:
        """Return the exit code, below 0 after a signal; None: the run goes on."""
        return self._process.exitcode

    def interrupt(self) -> None:
        """End the run as Ctrl-C does: after that it can be resumed."""
        # A fork of the server ignores the signal until its run begins; it would be lost.
        self._ready.poll(None)
        if self._process.pid is not None and self._process.is_alive():
            os.kill(self._process.pid, signal.SIGINT)

    def wait(self, seconds: float) -> bool:
        """Return whether the run has ended within so many seconds."""
        self._process.join(seconds)
        return not self._process.is_alive()

    def kill(self) -> None:
        """End the run at once; it goes on from its checkpoint another time."""
        self._process.kill()
        self._process.join()


def _work(request: RunRequest, ready: Connection) -> None:
    """Run in this process, and end it with a command's exit code.

    ready: closed once an interrupt ends the run as Ctrl-C does.
    """
    # In a session of its own: Ctrl-C is the parent's to pass on.
    os.setsid()
    _redirect(request.log)
    # Workers of the run are forked before a fleet listens, so no fork meets its threads.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    sys.exit(_exit_code(request, ready))


def _exit_code(request: RunRequest, ready: Connection) -> int:
    """Make the run; what ends it early is the last line of the log."""
    from fedlearn.runs import api

    try:
        ready.close()
        if request.agents:
            api.serve(
                request.config,
                out=request.folder,
                resume=request.resume,
                quiet=True,
                local_agents=request.agents,
            )
        else:
            api.run(
                request.config, out=request.folder, resume=request.resume, quiet=True
            )
    except FedlearnError as error:
        print(f"fedlearn: {one_line(error)}", flush=True)
        return error.exit_code
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BaseException as error:
        # A fault of ours, or of a user's code: the log has where.
        traceback.print_exc()
        print(f"fedlearn: {type(error).__name__}: {one_line(error)}", flush=True)
        return FedlearnError.exit_code
    return 0


def _redirect(log: Path) -> None:
    """Have this process, and what it starts, read nothing and print to a log."""
    source = os.open(os.devnull, os.O_RDONLY)
    target = private(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(source, 0)
    os.dup2(target, 1)
    os.dup2(target, 2)
