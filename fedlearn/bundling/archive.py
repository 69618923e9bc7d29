"""The archive of a bundle: one folder with all that a machine without a network needs.

Beside the files it holds their checksums, and a signature of these, which the installer checks.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shlex
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from fedlearn.system.files import sha256

# Of xz. Preset 6 takes ten times as long and gains a seventh.
PRESET: Final = 1

# The installer's text, with places for its values.
INSTALLER = Path(__file__).with_name("install.sh")

# The list of checksums, its detached signature, and the key that made it. The last two are in no
# list: the signature vouches for the list.
SUMS = "SHA256SUMS"
SIGNATURE = "SHA256SUMS.sig"
PUBLIC_KEY = "release.pem"

Signer = Callable[[bytes], Mapping[str, bytes]]
"""The list of checksums → the files `SIGNATURE` and `PUBLIC_KEY`."""

# Modes of files: for everyone to read, and for the owner alone.
PUBLIC = 0o644
PRIVATE = 0o600


def installer(values: Mapping[str, str]) -> str:
    """Return the installer's text with its ``@NAME@`` filled in, quoted for the shell."""

    text = INSTALLER.read_text()
    # One pass over the text: a value that contains "@NAME@" is not filled in itself.
    return re.sub("@([A-Z]+)@", lambda match: shlex.quote(values[match[1]]), text)


def write(
    path: Path,
    name: str,
    texts: Mapping[str, str],
    files: Mapping[str, Path],
    secret: bool,
    sign: Signer | None = None,
) -> str:
    """Write an archive that unpacks to a folder, and return its SHA-256.

    The same content gives the same bytes.
    name: of the folder. texts, files: content by the name inside. secret: only its owner may
    read the archive. sign: None for one that no installer takes. Raises OSError.
    """
    content = _content(texts, files)
    if sign is not None:
        content.update(sign(content[SUMS]))
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    # A new file with its mode from the start: a token is never readable by others.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        descriptor = os.open(part, flags, PRIVATE if secret else PUBLIC)
        with (
            open(descriptor, "wb") as file,
            tarfile.open(fileobj=file, mode="w:xz", preset=PRESET) as archive,
        ):
            for inside, data in sorted(content.items()):
                entry = tarfile.TarInfo(f"{name}/{inside}")
                entry.size = len(data)
                entry.mode = PRIVATE if inside == "token" else PUBLIC
                archive.addfile(entry, io.BytesIO(data))
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return sha256(path)


def _content(texts: Mapping[str, str], files: Mapping[str, Path]) -> dict[str, bytes]:
    """Return the bytes of every file inside by its name, with their checksums in SHA256SUMS."""
    content = {inside: text.encode() for inside, text in texts.items()}
    for inside, file in files.items():
        content[inside] = file.read_bytes()
    # In the format of sha256sum, which the installer runs.
    sums = ""
    for inside, data in sorted(content.items()):
        sums += f"{hashlib.sha256(data).hexdigest()}  {inside}\n"
    content[SUMS] = sums.encode()
    return content
