"""The process that loads an app's ClientApp once, and forks the workers that run it.

``python -m fedlearn.apps.nursery FD PARENT`` is started by `fedlearn.apps.workers`. A process
of its own, so that workers know nothing of the ServerApp's modules, and start at once when
one of them has died. It and its workers end with the run, however that ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from importlib import import_module
from importlib.util import find_spec
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle
from pathlib import Path
from typing import Any

from fedlearn.apps.sources import python_files
from fedlearn.apps.work import AppSettings
from fedlearn.errors import FedlearnError, one_line
from fedlearn.system.parent import end_forks_with_this, end_with_parent

# What the run asks of this process.
FORK = "fork"
ENDED = "ended"


def main(arguments: list[str]) -> None:
    """Load the app, and fork workers until the run closes its end."""
    end_with_parent(int(arguments[1]))
    # Ctrl-C reaches the whole group; the run decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for stream in (sys.stdout, sys.stderr):
        # Whole lines: those of all workers go to one file.
        stream.reconfigure(  # type: ignore[union-attr]
            line_buffering=True, write_through=False, errors="replace"
        )
    control = Connection(int(arguments[0]))
    settings: AppSettings = control.recv()
    try:
        answering = _loaded(settings)
    except FedlearnError as error:
        control.send(one_line(error))
        return
    control.send("")
    _serve(control, answering)


def _loaded(settings: AppSettings) -> Any:
    """Return what answers messages; raises ConfigError."""
    # An agent's app is installed, and the path is its owner's.
    if settings.folder is not None:
        sys.path.insert(0, str(settings.folder.resolve()))
    from fedlearn.apps.answering import Answering
    from fedlearn.apps.loading import client_app
    from fedlearn.apps.private import enter, hear_here
    from fedlearn.seeds import derive, isolated

    enter()
    hear_here()
    if any(_uses_torch(home) for home in _homes(settings)):
        # Imported by the app's first message it would not be seeded for that one.
        with contextlib.suppress(ImportError):
            _load_torch()
    _single_thread()
    # A module may draw while it is imported: the same in each run.
    with isolated(derive(settings.seed, "client-app")):
        app = client_app(settings.clientapp)
    return Answering(app, settings)


def _homes(settings: AppSettings) -> list[Path]:
    """Return the folders of an app's own files; an app of one file may have none."""
    if settings.folder is not None:
        return [settings.folder]
    spec = None
    # One that is not installed is named by the import that follows.
    with contextlib.suppress(ImportError, ValueError):
        spec = find_spec(settings.clientapp.partition(":")[0].partition(".")[0])
    locations = None if spec is None else spec.submodule_search_locations
    return [Path(location) for location in locations or ()]


def _uses_torch(folder: Path) -> bool:
    """Return whether an app's own files speak of torch."""
    for path in python_files(folder):
        with contextlib.suppress(OSError):
            if b"torch" in path.read_bytes():
                return True
    return False


def _load_torch() -> None:
    """Import torch, with what its first optimiser would import in each worker: seconds."""
    torch = import_module("torch")
    torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)


def _single_thread() -> None:
    """Have torch compute on one thread: the workers share the cores, and bits stay equal."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


def _serve(control: Connection, answering: Any) -> None:
    while True:
        try:
            request, value = control.recv()
        except (EOFError, OSError):
            return
        if request == FORK:
            control.send(_forked(control, answering))
        else:
            control.send(_exit_code(value))


def _forked(control: Connection, answering: Any) -> int:
    """Fork a worker that serves the next handle of the control; return its process."""
    handle = recv_handle(control)
    process = os.fork()
    if process:
        os.close(handle)
        return process
    control.close()
    end_with_parent()
    # A DataLoader's processes must not outlive a killed worker either.
    end_forks_with_this()
    _work(Connection(handle), answering)
    os._exit(0)


def _work(connection: Connection, answering: Any) -> None:
    """Answer messages until the run closes its end."""
    log = os.dup(sys.stdout.fileno())
    while True:
        try:
            work = connection.recv()
        except (EOFError, OSError):
            return
        answer = answering(work)
        _flush("stdout", 1, log)
        _flush("stderr", 2, log)
        try:
            connection.send(answer)
        except OSError:
            return


def _flush(name: str, number: int, log: int) -> None:
    """Hand a standard stream's lines on, and open it anew where the app has closed it."""
    try:
        getattr(sys, name).flush()
        # Its descriptor alone may be closed, for whatever file is opened next.
        os.fstat(number)
    except (AttributeError, OSError, ValueError):
        os.dup2(log, number)
        stream = open(  # noqa: SIM115
            number, "w", buffering=1, encoding="utf-8", errors="replace", closefd=False
        )
        setattr(sys, name, stream)


def _exit_code(process: int) -> int:
    """Return how a worker ended: its code, or a signal's number below 0."""
    _, status = os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    main(sys.argv[1:])
