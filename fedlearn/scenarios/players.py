"""The processes of a scenario: fedlearn's own commands, and what they say.

Each runs in the scenario's folder, so its paths are short and a person can type the same
line there. All end with the scenario, however that ends.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from fedlearn.errors import RunError
from fedlearn.scenarios.scene import Say
from fedlearn.system.files import private
from fedlearn.system.parent import end_with_parent

# Between two looks at a log.
_LOOK_S = 0.05

# A process that was asked to end has so long: its outbox may still be sent.
_END_S = 20.0
# Where the scenario itself has failed, or was interrupted: nothing is worth more.
_SHORT_S = 5.0


class Player:
    """One process. log: the file that has what it says."""

    def __init__(self, name: str, command: Sequence[str], folder: Path) -> None:
        """Start it. Raises RunError where the program cannot be started."""
        self.name = name
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

    def check(self) -> None:
        """Raise RunError if it has ended, with what it said last."""
        if self.popen.poll() is not None:
            raise RunError(f"{self.name} has ended: {self._last()}")

    def finish(self, patience_s: float) -> None:
        """Wait for its end; raises RunError for a failure, or if it does not come."""
        try:
            code = self.popen.wait(patience_s)
        except subprocess.TimeoutExpired:
            raise RunError(
                f"{self.name} takes longer than {patience_s:g} s: {self._last()}"
            ) from None
        if code:
            raise RunError(f"{self.name} failed ({code}): {self._last()}")

    def kill(self) -> None:
        """End it by SIGKILL, if it runs: as a power cut does."""
        self.popen.kill()
        self.popen.wait()

    def end(self) -> None:
        """End it in order; raises RunError if it does not end, or fails."""
        self.ask_to_end()
        self.finish(_END_S)

    def ask_to_end(self) -> None:
        """Ask it to end in order; one that is paused is woken for it."""
        self.popen.send_signal(signal.SIGTERM)
        self.popen.send_signal(signal.SIGCONT)

    def _last(self) -> str:
        lines = self.said().split("\n")
        return next((line for line in reversed(lines) if line.strip()), "nothing")


class Troupe:
    """All processes of a scenario: those that still run end with the block."""

    def __init__(self, folder: Path, say: Say) -> None:
        """folder: in which all run. say: is told every command."""
        self.folder = folder
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
        for player in reversed(self._players):
            player.ask_to_end()
        end_s = time.monotonic() + _SHORT_S
        for player in reversed(self._players):
            with suppress(subprocess.TimeoutExpired):
                player.popen.wait(max(0.0, end_s - time.monotonic()))
            player.kill()

    def fedlearn(self, name: str, *arguments: str) -> Player:
        """Start one of fedlearn's commands; name: of its log."""
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
