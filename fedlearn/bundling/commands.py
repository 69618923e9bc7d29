"""The two programs that a bundle is made with: uv, which resolves for other machines than this one, and pip, which downloads."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec

from fedlearn.errors import RunError, UserError

TIMEOUT_S = 1800.0
"""A torch over a slow line takes its time."""


def pip(*arguments: str) -> str:
    """Run pip and return its output. Raises UserError when this Python has none, RunError when it fails."""
    if find_spec("pip") is None:
        raise UserError(
            f"this Python has no pip; add it: {sys.executable} -m ensurepip"
        )
    return _output(
        "pip",
        [
            sys.executable,
            "-m",
            "pip",
            "--disable-pip-version-check",
            "--no-input",
            *arguments,
        ],
    )


def uv(*arguments: str) -> str:
    """Run uv and return its output. Raises UserError when it is missing, RunError when it fails."""
    command = (
        [sys.executable, "-m", "uv"] if find_spec("uv") else [shutil.which("uv") or ""]
    )
    if not command[0]:
        raise UserError(
            "a bundle needs uv, which finds the packages of other machines than this one: pip install uv"
        )
    return _output("uv", [*command, "--quiet", "--color", "never", *arguments])


def _output(name: str, command: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RunError(f"{name}: {error}") from None
    if done.returncode:
        said = [
            line.strip(" ×╰─▶├│")
            for line in done.stderr.splitlines()
            if line.strip() and not line.startswith("WARNING")
        ]
        raise RunError(f"{name} failed: {' '.join(said)[-600:] or done.returncode}")
    return done.stdout
