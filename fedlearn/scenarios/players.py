"""The processes of a scenario: fedlearn's own commands, and what they say.

Each runs in the scenario's folder, so its paths are short and a person can type the same
line there. All end with the scenario, however that ends.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from fedlearn.errors import RunError
from fedlearn.scenarios.scene import Say
from fedlearn.system.files import private
from fedlearn.system.parent import end_with_parent

# Seconds for which a condition is waited for: a busy machine is slow, and a hang has an end.
PATIENCE_S = 240.0

# Between two looks at a log, or at a condition.
_LOOK_S = 0.05

# A process that was asked to end has so long: its outbox may still be sent.
_END_S = 20.0
# A command that was asked to end says so by its exit code.
_INTERRUPTED = 130
# Where the scenario itself has failed, or was interrupted: nothing is worth more.
_SHORT_S = 5.0


def free_port() -> int:
    """Return a port of this machine that nobody listens at."""
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        port: int = place.getsockname()[1]
        return port


class Player:
    """One process, and all that it starts. log: the file that has what it says.

    is_over: it was waited for, or killed, so its end is no news.
    """

    def __init__(self, name: str, command: Sequence[str], folder: Path) -> None:
        """Start it. Raises RunError where the program cannot be started."""
        self.name = name
        self.is_over = False
        self.log = folder / f"{name}.log"
        # What another process under this name has said is not this one's.
        self._begin_bytes = self.log.stat().st_size if self.log.exists() else 0
        parent = os.getpid()
        try:
            with open(self.log, "ab", opener=private) as log:
                self.popen = subprocess.Popen(
                    command,
                    cwd=folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    # Ctrl-C is for the scenario, which ends its processes in order.
                    start_new_session=True,
                    # A scenario that is killed has nobody who could end its processes.
                    preexec_fn=lambda: end_with_parent(parent),
                )
        except OSError as error:
            raise RunError(f"{command[0]} cannot start: {error.strerror}") from None

    def said(self) -> str:
        """Return all that it has said."""
        content = self.log.read_bytes()[self._begin_bytes :]
        return content.decode(errors="replace")

    def wait_for(self, words: str, patience_s: float) -> str:
        """Return its first line with some words; raises RunError if none comes."""
        end_s = time.monotonic() + patience_s
        while True:
            # Before the log is read: what it said last counts, too.
            has_ended = self.popen.poll() is not None
            for line in self.said().splitlines():
                if words in line:
                    return line
            if has_ended or time.monotonic() > end_s:
                raise RunError(f"{self.name} did not say '{words}': {self._last()}")
            time.sleep(_LOOK_S)

    def check(self, when: str = "") -> None:
        """Raise RunError if it has ended, with what it said last. when: of the story."""
        if self.popen.poll() is not None:
            raise RunError(f"{self.name} has ended{when}: {self._last()}")

    def finish(self, patience_s: float, codes: Sequence[int] = (0,)) -> None:
        """Wait for its end; raises RunError for a failure, or if it does not come.

        codes: that it may exit with.
        """
        try:
            code = self.popen.wait(patience_s)
        except subprocess.TimeoutExpired:
            raise RunError(
                f"{self.name} takes longer than {patience_s:g} s: {self._last()}"
            ) from None
        self.is_over = True
        if code not in codes:
            raise RunError(f"{self.name} failed ({code}): {self._last()}")

    def kill(self) -> None:
        """End it by SIGKILL, and what it has started: as a power cut does."""
        self.is_over = True
        # Of its group, too, what would not end with it; mostly there is nobody.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()

    def end(self) -> None:
        """End it in order; raises RunError if it does not end, or fails."""
        self.ask_to_end()
        self.finish(_END_S, codes=(0, _INTERRUPTED))

    def ask_to_end(self) -> None:
        """Ask it to end in order; one that is paused is woken for it."""
        self.popen.send_signal(signal.SIGTERM)
        self.popen.send_signal(signal.SIGCONT)

    def _last(self) -> str:
        lines = self.said().split("\n")
        return next((line for line in reversed(lines) if line.strip()), "nothing")


class Troupe:
    """All processes of a scenario: those that still run end with the block."""

    def __init__(self, folder: Path, say: Say | None = None) -> None:
        """folder: in which all run. say: is told every command."""
        self.folder = folder.absolute()
        self._say = say
        self._players: list[Player] = []

    def __enter__(self) -> Troupe:
        """Begin without processes."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End all, the newest first, and kill what does not end."""
        left = [player for player in reversed(self._players) if not player.is_over]
        for player in left:
            player.ask_to_end()
        end_s = time.monotonic() + _SHORT_S
        for player in left:
            with suppress(subprocess.TimeoutExpired):
                player.popen.wait(max(0.0, end_s - time.monotonic()))
            player.kill()

    def fedlearn(self, name: str, *arguments: str) -> Player:
        """Start one of fedlearn's commands; name: of its log."""
        if self._say is not None:
            self._say(f"$ {shlex.join(['fedlearn', *arguments])}")
        return self.start(name, [sys.executable, "-m", "fedlearn", *arguments])

    def run(self, name: str, *arguments: str, patience_s: float = 300.0) -> str:
        """Run one of fedlearn's commands to its end, and return what it said."""
        player = self.fedlearn(name, *arguments)
        player.finish(patience_s)
        return player.said()

    def start(self, name: str, command: Sequence[str]) -> Player:
        """Start a program."""
        player = Player(name, command, self.folder)
        self._players.append(player)
        return player

    def wait(
        self, is_so: Callable[[], object], what: str, patience_s: float = PATIENCE_S
    ) -> None:
        """Wait until a condition holds.

        Raises RunError when a process ends that nobody ended, or when it never holds.
        """
        end_s = time.monotonic() + patience_s
        while not is_so():
            for player in self._players:
                if not player.is_over:
                    player.check(f" before {what}")
            if time.monotonic() > end_s:
                raise RunError(f"{what}: not within {patience_s:.0f} s")
            time.sleep(_LOOK_S)
