"""The peers' environments: one folder each, made with pinned versions."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

from fedlearn.errors import RunError
from fedlearn.experiments.benchmarks.peers.running import last_line

HERE = Path(__file__).parent

DEFAULT = Path("~/.cache/fedlearn-peers")

PEERS: dict[str, tuple[str, ...]] = {
    "pfl": (),
    "fedjax": (),
    "flwr": (),
    "blazefl": ("--ignore-requires-python",),
    "fedlab": ("--no-deps",),
}
"""Name of a peer → what pip is told besides its list in ``requirements/``, which says why."""


def python(envs: Path, peer: str) -> Path:
    """Return where a peer's Python is, or would be."""
    return envs / peer / "bin" / "python"


def installed(envs: Path, peer: str) -> bool:
    """Return whether a peer's environment was made to the end, from the list as it is now."""
    note = envs / peer / "made-from.txt"
    return note.is_file() and note.read_text() == _list(peer).read_text()


def make(envs: Path, peer: str) -> None:
    """Make a peer's environment, with this Python's version. Raises RunError, with pip's last
    words, when pip fails.
    """
    venv.create(envs / peer, with_pip=True, clear=True)
    _pip(
        envs,
        peer,
        "install",
        "--quiet",
        *PEERS[peer],
        "--requirement",
        str(_list(peer)),
    )
    (envs / peer / "made-from.txt").write_text(_list(peer).read_text())


def _list(peer: str) -> Path:
    return HERE / "requirements" / f"{peer}.txt"


def _pip(envs: Path, peer: str, *arguments: str) -> None:
    done = subprocess.run(
        [python(envs, peer), "-m", "pip", *arguments],
        stdout=sys.stderr,
        stderr=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise RunError(
            f"{peer} cannot be installed: "
            f"{last_line(done.stderr) or f'pip ended with {done.returncode}'}"
        )
