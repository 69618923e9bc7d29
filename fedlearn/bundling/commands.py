"""The two programs that a bundle is made with: uv resolves packages, pip downloads them.

uv can resolve for another machine than this one; pip cannot.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec

from fedlearn.errors import RunError, UserError

# Longest run of a program: a torch over a slow line takes its time.
TIMEOUT_S = 1800.0

# The end of a program's output that a message quotes, in characters.
QUOTED = 600


def pip(*arguments: str) -> str:
    """Run pip and return its output.

    Raises UserError when this Python has no pip, RunError when it fails.
    """
    if find_spec("pip") is None:
        raise UserError(
            f"this Python has no pip; add it: {sys.executable} -m ensurepip"
        )
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    return _output("pip", [*command, *arguments])


def uv(*arguments: str) -> str:
    """Run uv and return its output. Raises UserError when it is missing, RunError when it fails."""
    # pip's uv is preferred: it is the one that the error message says to install.
    command = [sys.executable, "-m", "uv"]
    if not find_spec("uv"):
        program = shutil.which("uv")
        if not program:
            raise UserError(
                "a bundle needs uv, which finds the packages of other machines than "
                "this one: pip install uv"
            )
        command = [program]
    return _output("uv", [*command, "--quiet", "--color", "never", *arguments])


def _output(name: str, command: Sequence[str]) -> str:
    """Run a command and return what it prints; raises RunError when it fails."""
    try:
        process = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RunError(f"{name}: {error}") from None
    if process.returncode:
        reason = _reason(process.stderr) or process.returncode
        raise RunError(f"{name} failed: {reason}")
    return process.stdout


def _reason(stderr: str) -> str:
    """Return the end of what a program says, on one line, without warnings and drawn lines."""
    lines = []
    for line in stderr.splitlines():
        if line.strip() and not line.startswith("WARNING"):
            # uv draws its explanation as a tree.
            lines.append(line.strip(" ×╰─▶├│"))
    return " ".join(lines)[-QUOTED:]
