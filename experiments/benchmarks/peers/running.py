"""A competitor's process: its turns, and what it and its children use. Linux only (/proc)."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from fedlearn.errors import RunError

PATIENCE_S = 180.0
"""How long an answer may take: start-up, compilation or a round."""

LEAVE_S = 15.0
"""How long a process may take to end once its standard input has."""

TICK_S = 1 / os.sysconf("SC_CLK_TCK")


class Unable(RunError):
    """A competitor that cannot take part, with the reason in a few words."""


class Running:
    """One competitor on one workload. ``startup_s`` is from the process's start to the end of
    its first round.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> None:
        """Start it and have it do one round. Raises Unable."""
        self.told: dict[str, Any] = {}
        self.log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # as long as the process
        begun = time.perf_counter()
        self.process = subprocess.Popen(
            command,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            env=environment,
            start_new_session=True,
        )
        try:
            self.told = self._answer()
            if why := self.told.get("refused"):
                raise Unable(why)
            self.round()
        except BaseException:
            self.close()
            raise
        self.startup_s = time.perf_counter() - begun

    def round(self) -> float:
        """Have it do a round; returns its seconds. Raises Unable."""
        assert self.process.stdin
        with contextlib.suppress(
            BrokenPipeError
        ):  # its answer, which does not come, says why
            self.process.stdin.write(b"go\n")
        return float(self._answer()["seconds"])

    def memory_mb(self) -> float:
        """Return the memory that it and its children made: each page counts once, however
        many of them share it.

        Files that they map, as libraries, do not count: how much of them is a process's own
        depends on who else has them open.
        """
        return sum(_made_kb(pid) for pid in members(self.process.pid)) / 1024

    def cpu_s(self) -> float:
        """Return the processor time that it and its children have used, in steps of the
        system's tick (10 ms).
        """
        return TICK_S * sum(_ticks(pid) for pid in members(self.process.pid))

    def close(self) -> None:
        """End it and its children."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(LEAVE_S)
        for pid in members(self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()
        self.log.close()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout
        while True:
            readable, _, _ = select.select([self.process.stdout], [], [], PATIENCE_S)
            if not readable:
                raise Unable(f"no answer in {PATIENCE_S:.0f} s")
            line = self.process.stdout.readline()
            if not line:
                raise Unable(self._last_words())
            with contextlib.suppress(
                ValueError
            ):  # a library may have talked before the script could stop it
                if isinstance(answer := json.loads(line), dict):
                    return answer

    def _last_words(self) -> str:
        self.log.seek(0)
        return (
            last_line(self.log.read().decode(errors="replace"))
            or f"ended with {self.process.wait()}"
        )


def last_line(text: str) -> str:
    """Return the last line that says anything."""
    return next(
        (line.strip() for line in reversed(text.splitlines()) if line.strip()), ""
    )


def members(session: int) -> list[int]:
    """Return the processes of a session: the one that it is named after and all that descend
    from it, orphans included.
    """
    pids = [
        int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()
    ]
    return [pid for pid in pids if _stat(pid)[3:4] == [str(session)]]


def _stat(pid: int) -> list[str]:
    """Return what proc(5) tells of a process from its state on; nothing when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _made_kb(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it ended
        return 0
    return sum(
        int(line.split()[1])
        for line in lines
        if line.startswith(("Pss_Anon:", "Pss_Shmem:"))
    )


def _ticks(pid: int) -> int:
    return sum(
        int(field) for field in _stat(pid)[11:15]
    )  # its own, user and system, and those of the children that ended
