"""The archive of a bundle: one folder with everything that a machine without a network needs, and the sums of its files."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shlex
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

PRESET: Final = 1
"""Of xz; 6 takes ten times as long and gains a seventh."""

INSTALLER = Path(__file__).with_name("install.sh")


def installer(values: Mapping[str, str]) -> str:
    """Return the installer's text with its ``@NAME@`` filled in, quoted for the shell."""
    return re.sub(
        "@([A-Z]+)@", lambda found: shlex.quote(values[found[1]]), INSTALLER.read_text()
    )


def write(
    path: Path,
    name: str,
    texts: Mapping[str, str],
    files: Mapping[str, Path],
    secret: bool,
) -> str:
    """Write an archive that unpacks to a folder, and return its SHA-256; the same content gives the same bytes.

    texts, files: content by the name inside. secret: only its owner may read it. Raises OSError.
    """
    content = {
        **{inside: text.encode() for inside, text in texts.items()},
        **{inside: file.read_bytes() for inside, file in files.items()},
    }
    sums = "".join(
        f"{hashlib.sha256(data).hexdigest()}  {inside}\n"
        for inside, data in sorted(content.items())
    )
    content["SHA256SUMS"] = sums.encode()
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    try:
        descriptor = os.open(
            part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if secret else 0o644
        )
        with (
            open(descriptor, "wb") as file,
            tarfile.open(fileobj=file, mode="w:xz", preset=PRESET) as archive,
        ):
            for inside, data in sorted(content.items()):
                entry = tarfile.TarInfo(f"{name}/{inside}")
                entry.size, entry.mode = (
                    len(data),
                    0o600 if inside == "token" else 0o644,
                )
                archive.addfile(entry, io.BytesIO(data))
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return hashlib.sha256(path.read_bytes()).hexdigest()
