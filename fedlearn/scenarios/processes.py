"""Our own commands as processes of a scenario: started, watched, and ended whatever happens."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from fedlearn.errors import RunError
from fedlearn.text import shortened

# Seconds for which a condition is waited for: a busy machine is slow, and a hang has an end.
PATIENCE_S = 240.0

# Between two looks at a condition.
_LOOK_S = 0.1

# Seconds that a process is given to end in order.
_END_S = 10.0

# Characters of a log that an error shows.
_TAIL = 300


def free_port() -> int:
    """Return a port of this machine that nobody listens at."""
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        port: int = place.getsockname()[1]
        return port


class Processes:
    """Commands ``fedlearn …`` that run beside a scenario, each with a log in its folder."""

    def __init__(self, folder: Path) -> None:
        """Take the folder that the commands run in."""
        self.folder = folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *words: object) -> None:
        """Start a command that goes on; what it says goes to NAME.log."""
        with open(self._log(name), "ab") as log:
            self._running[name] = subprocess.Popen(
                _command(words),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C is for the scenario, which ends its processes in order.
                start_new_session=True,
            )

    def run(self, *words: object) -> str:
        """Run a command to its end, and return what it printed.

        Raises RunError with its last words where it fails.
        """
        done = subprocess.run(
            _command(words),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            text = shortened(done.stderr or done.stdout, _TAIL)
            raise RunError(f"'fedlearn {' '.join(map(str, words))}' failed: {text}")
        return done.stdout

    def wait(self, is_so: Callable[[], object], what: str) -> None:
        """Wait until a condition holds. Raises RunError when a process ends, or it never does."""
        end_s = time.monotonic() + PATIENCE_S
        while not is_so():
            for name, process in self._running.items():
                if process.poll() is not None:
                    raise RunError(f"{name} ended before {what}: {self._last(name)}")
            if time.monotonic() > end_s:
                raise RunError(f"{what}: not within {PATIENCE_S:.0f} s")
            time.sleep(_LOOK_S)

    def log(self, name: str) -> str:
        """Return what a process has said so far."""
        return self._log(name).read_text(errors="replace")

    def end(self, name: str) -> None:
        """End a process in order, and with it all that it started."""
        process = self._running.pop(name)
        process.terminate()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
        # Of its group, what did not end with it; mostly there is nobody.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def end_all(self) -> None:
        """End all processes, the newest first: agents before their coordinator."""
        for name in reversed(list(self._running)):
            self.end(name)

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def _last(self, name: str) -> str:
        return shortened(self.log(name)[-_TAIL:], _TAIL) or "it said nothing"


@contextlib.contextmanager
def processes(folder: Path) -> Iterator[Processes]:
    """Yield processes that run in a folder, all of which end with the block."""
    group = Processes(folder.absolute())
    try:
        yield group
    finally:
        group.end_all()


def _command(words: tuple[object, ...]) -> list[str]:
    return [sys.executable, "-m", "fedlearn", *map(str, words)]
