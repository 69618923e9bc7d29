"""The wheel of the fedlearn that runs here: built from a checkout, or repacked from its files."""

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

# What a checkout's wheel is built from; the folders beside fedlearn/ are parts of it.
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

# Files that an installation adds to a wheel's metadata, or writes anew.
_OF_THE_INSTALLATION = {
    "RECORD",
    "INSTALLER",
    "REQUESTED",
    "direct_url.json",
    "uv_cache.json",
}


def own_wheel(folder: Path) -> Path:
    """Write our wheel to a folder and return its path.

    Raises UserError where fedlearn was not installed, RunError if the build fails.
    """
    root = Path(fedlearn.__file__).resolve().parents[1]
    # A checkout, also one that is installed with pip install -e.
    if (root / "pyproject.toml").exists():
        return built(root, folder)
    return repacked(folder)


def built(root: Path, folder: Path) -> Path:
    """Build the wheel of a checkout, and return its path in ``folder``.

    From a copy, so that the build leaves nothing in the checkout. Raises UserError without pip,
    RunError if the build fails.
    """
    with tempfile.TemporaryDirectory(prefix="fedlearn-build-") as name:
        copy = Path(name) / "source"
        out = Path(name) / "wheel"
        copy.mkdir()
        unwanted = shutil.ignore_patterns("__pycache__", ".*")
        for part in _SOURCES:
            source = root / part
            if source.is_dir():
                # fedlearn/ has links to the root folders; copies would be built twice.
                shutil.copytree(source, copy / part, symlinks=True, ignore=unwanted)
            else:
                shutil.copy(source, copy / part)
        pip("wheel", "--no-deps", "--wheel-dir", str(out), str(copy))
        (wheel,) = out.glob("*.whl")
        return Path(shutil.move(wheel, folder / wheel.name))


def repacked(folder: Path) -> Path:
    """Put the wheel together again from the installed files, and return its path in ``folder``.

    The installation's own list names the files. Raises UserError where there is none.
    """
    try:
        installed = distribution("fedlearn")
    except PackageNotFoundError:
        installed = None
    if installed is None or not installed.files:
        raise UserError(
            "this fedlearn was not installed by pip, so its wheel cannot be made; "
            "install it: pip install 'fedlearn[sim]'"
        )
    wheel = folder / f"fedlearn-{installed.version}-py3-none-any.whl"
    record = ""
    lines = []
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(installed.files, key=str):
            top = path.parts[0]
            if top.endswith(".dist-info") and path.name in _OF_THE_INSTALLATION:
                record = f"{top}/RECORD"
            # Outside is the command in bin/, which every installation makes anew.
            elif not top.startswith("..") and path.suffix != ".pyc":
                data = Path(str(installed.locate_file(path))).read_bytes()
                # A ZipInfo of its own has no time, so the same files give the same wheel.
                entry = zipfile.ZipInfo(path.as_posix())
                archive.writestr(entry, data, zipfile.ZIP_DEFLATED)
                lines.append(_record_line(path.as_posix(), data))
        lines.append(f"{record},,\n")
        archive.writestr(zipfile.ZipInfo(record), "".join(lines))
    return wheel


def _record_line(name: str, data: bytes) -> str:
    """Return a file's line in RECORD, as PyPA's "Recording installed projects" specifies it."""
    # URL-safe base64 without padding, as the specification asks.
    digest = hashlib.sha256(data).digest()
    encoded = base64.urlsafe_b64encode(digest)
    text = encoded.decode().rstrip("=")
    size = len(data)
    return f"{name},sha256={text},{size}\n"
