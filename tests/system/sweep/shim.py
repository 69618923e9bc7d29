"""Faults at the file calls of processes: the library `shim.c`, and the plan that it follows."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")

# Of the environment: the file with a process's plan. shim.c reads it.
VARIABLE = "FEDLEARN_SWEEP"

# As shim.c has them, in this order from 1.
FAULTS = ("once", "forever", "before", "after", "short")

# The fields of `struct plan` in shim.c.
_PLAN = struct.Struct("@llll1024s1024s")
_NUMBERS = struct.Struct("@llll")


def met(fault: str, calls: Sequence[str]) -> Sequence[str]:
    """Return those of some calls that a fault counts: only what moves bytes can be shortened."""
    if fault != "short":
        return calls
    return [call for call in calls if call.split()[0] in ("read", "write")]


def compiler() -> str | None:
    """Return the C compiler of this machine, if it has one."""
    return shutil.which("cc")


def build(folder: Path) -> Path:
    """Compile the library into a folder, and return it."""
    library = folder / "shim.so"
    options = ("-shared", "-fPIC", "-O2", "-ldl")
    command = ["cc", "-o", str(library), str(SOURCE), *options]
    subprocess.run(command, check=True)
    return library


@dataclass(frozen=True)
class Plan:
    """What happens to the processes of one trial; it lies in a file that they share."""

    path: Path

    @classmethod
    def write(cls, path: Path, folder: Path, at: int = 0, fault: str = "once") -> Plan:
        """Write the plan of a fault at the at-th call below a folder; 0: only count them."""
        number = 1 + FAULTS.index(fault)
        log = str(path.with_suffix(".calls")).encode()
        # The separator: "run" must not stand for "run-2".
        data = _PLAN.pack(at, number, 0, 0, f"{folder}{os.sep}".encode(), log)
        path.write_bytes(data)
        return cls(path)

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables that make a process follow the plan."""
        return {VARIABLE: str(self.path)}

    @property
    def struck(self) -> bool:
        """Return whether a call has gone wrong."""
        return bool(_NUMBERS.unpack_from(self.path.read_bytes())[3])

    @property
    def calls(self) -> Sequence[str]:
        """Return the calls that were counted, as "write /a/path"; of a fault: where it struck."""
        log = self.path.with_suffix(".calls")
        return log.read_text().splitlines() if log.exists() else []
