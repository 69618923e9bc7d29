"""Files and folders: for their owner alone, replaced whole, on disk when the call returns.

What a run or an agent writes holds what clients learned from their data. So folders are made
with 0700 and files with 0600, whatever the umask says; who wants to share them changes that
afterwards. Root gives what it writes to the owner of the folder that it lies in: another user's
program has to read it.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

# Modes of files: for their owner alone, or for everyone to read.
PRIVATE = 0o600
PUBLIC = 0o644

_PRIVATE_FOLDER = 0o700


@contextlib.contextmanager
def named(path: str | os.PathLike[str]) -> Iterator[None]:
    """Have an OSError of a block name the path that it is about.

    Of a disk that is full, or that fails, the system tells no path: it refuses what an open
    file is written, read or synced with. A path that an error names already stays.
    """
    try:
        yield
    except OSError as error:
        # Without a number it is Python's own, whose text says all.
        if error.filename is None and error.errno is not None:
            error.filename = os.fspath(path)
        raise


def replace(
    path: Path, data: bytes, mode: int = PRIVATE, whatever_umask: bool = False
) -> None:
    """Replace a file whole: a reader and a power cut find the old content or the new.

    mode: who may read it, less what the umask takes away unless ``whatever_umask``. Raises
    OSError.
    """
    part = path.with_name(f".{path.name}.part")
    # A part that a killed process left may have another mode, and O_EXCL refuses it.
    part.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        with open(os.open(part, flags, mode), "wb") as file:
            # By the open file, as a name may have become a link by now.
            if whatever_umask:
                os.fchmod(file.fileno(), mode)
            give_to_owner(file.fileno(), path.parent)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        # Not the part, of which nobody knows.
        if error.errno is not None:
            error.filename = str(path)
            error.filename2 = None
        raise
    sync_folder(path.parent)


def private(path: str | os.PathLike[str], flags: int) -> int:
    """Open a file for `open`, as its ``opener``: one that is made is its owner's alone.

    A file that is there stays as it is, whoever may read it. Raises OSError.
    """
    flags |= os.O_CLOEXEC
    if not flags & os.O_CREAT:
        return os.open(path, flags)
    try:
        descriptor = os.open(path, flags | os.O_EXCL, PRIVATE)
    except FileExistsError:
        return os.open(path, flags, PRIVATE)
    # Of a new file alone: what was there before may be a link to anybody's file.
    give_to_owner(descriptor, Path(path).parent)
    return descriptor


def make_folder(folder: Path) -> None:
    """Make a folder for its owner alone, if it is not there; raises OSError.

    Folders on the way are made as the umask says. A folder that is there stays as it is: it
    may be shared on purpose.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir(_PRIVATE_FOLDER)
    except FileExistsError:
        # A file of this name is no folder; a link to one is.
        if not folder.is_dir():
            raise
        return
    give_folder(folder)


def give_folder(folder: Path) -> None:
    """Give a folder that root has made to the owner of the folder around it; raises OSError."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(folder, flags)
    try:
        give_to_owner(descriptor, folder.parent)
    finally:
        os.close(descriptor)


def readers(path: Path) -> str:
    """Return who may read or write a file besides its owner: "group", "others", or "".

    Raises OSError.
    """
    mode = path.stat().st_mode
    if mode & stat.S_IRWXO:
        return "others"
    return "group" if mode & stat.S_IRWXG else ""


def page_mode(folder: Path) -> int:
    """Return the mode of a page or a plot in a folder: for whom the folder is, it is too.

    Less what the umask takes away. Raises OSError.
    """
    return 0o666 & folder.stat().st_mode


def give_to_owner(descriptor: int, folder: Path) -> None:
    """Give what root has made in a folder to the folder's owner; raises OSError.

    Otherwise a service could not read what was written for it with sudo.
    """
    if os.geteuid() != 0:
        return
    owner = folder.stat()
    if os.fstat(descriptor).st_uid == owner.st_uid:
        return
    # In a container, or on a network's disk, root may not give files away.
    with contextlib.suppress(PermissionError):
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


def sync_folder(folder: Path) -> None:
    """Bring a folder's names to disk, a new or renamed file's among them.

    Raises OSError.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with named(folder):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content, 64 hex digits. Raises OSError."""
    # Here, because it loads OpenSSL's library, which not every process needs.
    import hashlib

    digest = hashlib.sha256()
    with named(path), open(path, "rb") as file:
        # A megabyte at a time: a file may be larger than a board's memory.
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def sweep(folder: Path) -> None:
    """Remove the parts that processes left in a folder which were killed in `replace`.

    Only who holds the folder's lock may call it, as a living process needs its parts.
    Raises OSError.
    """
    for part in folder.glob(".*.part"):
        part.unlink(missing_ok=True)
