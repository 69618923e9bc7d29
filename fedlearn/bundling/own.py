"""The wheel of the fedlearn that runs here: built from a checkout, or put together again from what pip installed."""

from __future__ import annotations

import base64
import hashlib
import shutil
import tempfile
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import fedlearn
from fedlearn.bundling.commands import pip
from fedlearn.errors import UserError

_SOURCES = (
    "fedlearn",
    "clients",
    "server",
    "strategies",
    "experiments",
    "pyproject.toml",
    "README.md",
    "LICENSE",
)
_OF_THIS_PLACE = {
    "RECORD",
    "INSTALLER",
    "REQUESTED",
    "direct_url.json",
    "uv_cache.json",
}
"""Files that an installation adds to a wheel's metadata."""


def own_wheel(folder: Path) -> Path:
    """Write our wheel to a folder and return its path. Raises UserError where fedlearn was not installed, RunError if the build fails."""
    root = Path(fedlearn.__file__).resolve().parents[1]
    return (
        built(root, folder) if (root / "pyproject.toml").exists() else repacked(folder)
    )


def built(root: Path, folder: Path) -> Path:
    """Build the wheel of a checkout; from a copy, so that the build leaves nothing there."""
    with tempfile.TemporaryDirectory(prefix="fedlearn-build-") as name:
        copy, out = Path(name) / "source", Path(name) / "wheel"
        copy.mkdir()
        for part in _SOURCES:
            if (root / part).is_dir():
                shutil.copytree(
                    root / part,
                    copy / part,
                    symlinks=True,
                    ignore=shutil.ignore_patterns("__pycache__", ".*"),
                )
            else:
                shutil.copy(root / part, copy / part)
        pip("wheel", "--no-deps", "--wheel-dir", str(out), str(copy))
        (wheel,) = out.glob("*.whl")
        return Path(shutil.move(wheel, folder / wheel.name))


def repacked(folder: Path) -> Path:
    """Put the wheel together again from the installed files, as the installation's own list names them."""
    try:
        found = distribution("fedlearn")
    except PackageNotFoundError:
        found = None
    if found is None or not found.files:
        raise UserError(
            "this fedlearn was not installed by pip, so its wheel cannot be made; install it: pip install 'fedlearn[sim]'"
        )
    wheel = folder / f"fedlearn-{found.version}-py3-none-any.whl"
    record, lines = "", []
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(found.files, key=str):
            inside = not path.parts[0].startswith(
                ".."
            )  # the command in bin/ is made anew by whoever installs
            if path.parts[0].endswith(".dist-info") and path.name in _OF_THIS_PLACE:
                record = f"{path.parts[0]}/RECORD"
            elif inside and path.suffix != ".pyc":
                data = Path(str(found.locate_file(path))).read_bytes()
                archive.writestr(
                    zipfile.ZipInfo(path.as_posix()), data, zipfile.ZIP_DEFLATED
                )
                digest = (
                    base64.urlsafe_b64encode(hashlib.sha256(data).digest())
                    .decode()
                    .rstrip("=")
                )
                lines.append(f"{path.as_posix()},sha256={digest},{len(data)}\n")
        archive.writestr(zipfile.ZipInfo(record), "".join([*lines, f"{record},,\n"]))
    return wheel
