"""A package's folder: written whole or not at all, and read with every byte checked.

A package is named by the SHA-256 of its manifest, which has the hashes of all else. What is
read from a folder is checked as it is read: a file that changes between a check and its use
is refused by its hash.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedlearn.errors import PackageError, UserError, reason_of
from fedlearn.package.function_graph import check_function
from fedlearn.package.manifest import MOST_BYTES, Manifest, from_bytes
from fedlearn.package.matching import check_graph
from fedlearn.package.parts import (
    DELTAS_FOLDER,
    FUNCTIONS_FOLDER,
    GRAPH_FILE,
    INT8_GRAPH_FILE,
    MANIFEST_FILE,
    WEIGHTS_FILE,
    ListedFile,
    function_file,
)
from fedlearn.system import files
from fedlearn.system.sha256 import sha256
from fedlearn.text import first_few, shortened

# A second signature is there while one key takes the place of another.
SIGNATURE_FILE = "model.sig"
NEXT_SIGNATURE_FILE = "model.next.sig"
SIGNATURES = (SIGNATURE_FILE, NEXT_SIGNATURE_FILE)

# Larger than any signature of so many files.
MOST_SIGNATURE_BYTES = 1 << 20

# Read and hashed at a time, so that a board needs no memory for the file.
_PIECE = 1 << 20


@dataclass(frozen=True)
class Package:
    """A package whose files were as its manifest says when it was read."""

    folder: Path
    manifest: Manifest
    # Of manifest.json, 64 hex digits: the package's own name.
    sha256: str

    def file(self, path: str) -> bytes:
        """Return a listed file's bytes. Raises PackageError where they are others by now."""
        return bytes(_read_checked(self.folder, path, self.manifest.listed[path]))

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """Return the tensors of weights.bin, float32, each of its shape, in their order.

        They are views of one array. Raises PackageError as `file`.
        """
        values = self.weights()
        arrays = {}
        start = 0
        for tensor in self.manifest.tensors:
            end = start + tensor.size
            arrays[tensor.name] = values[start:end].reshape(tensor.shape)
            start = end
        return arrays

    def weights(self) -> NDArray[np.float32]:
        """Return all values of weights.bin, (P,) float32. Raises PackageError as `file`."""
        listed = self.manifest.files[WEIGHTS_FILE]
        data = _read_checked(self.folder, WEIGHTS_FILE, listed)
        return np.frombuffer(data, "<f4").astype(np.float32, copy=False)

    def signatures(self) -> dict[str, bytes]:
        """Return the signatures that lie beside the manifest, by their files' names."""
        signatures = {}
        for name in SIGNATURES:
            if os.path.lexists(self.folder / name):
                signatures[name] = _read(self.folder, name, MOST_SIGNATURE_BYTES)
        return signatures


def is_package(folder: Path) -> bool:
    """Tell whether a folder looks like a package; a run's folder has a manifest too."""
    return (folder / MANIFEST_FILE).exists() and (folder / WEIGHTS_FILE).exists()


def read(folder: Path, needs_deltas: bool = False) -> Package:
    """Return a package, after every byte of it was compared with its manifest.

    needs_deltas: refuse it without the differences that it lists; a device needs none once
    it has the weights. Raises PackageError, which names what is wrong, and UserError for a
    folder that is none.
    """
    if not folder.is_dir():
        raise UserError(f"'{folder}' is no folder; give a package")
    if not os.path.lexists(folder / MANIFEST_FILE):
        raise UserError(f"'{folder}' has no {MANIFEST_FILE}; give a package")
    data = _read(folder, MANIFEST_FILE, MOST_BYTES)
    manifest = from_bytes(data)
    _check_names(folder, manifest, needs_deltas)
    package = Package(folder, manifest, sha256(data).hexdigest())
    _check_hashes(package)
    for path in (GRAPH_FILE, INT8_GRAPH_FILE):
        if path in manifest.files:
            check_graph(manifest, package.file(path), path)
    for function in manifest.functions:
        data = package.file(function_file(function.name))
        check_function(function, data, manifest.targets)
    return package


def tensors(folder: Path) -> dict[str, NDArray[np.float32]]:
    """Return the tensors of a package's folder, float32, in their order. Raises as `read`."""
    return read(folder).tensors()


def write(
    folder: Path,
    manifest: Manifest,
    content: Mapping[str, bytes],
    signatures: Mapping[str, bytes] | None = None,
    proof: Callable[[Package], object] | None = None,
) -> Package:
    """Write a package to a new folder: it is there whole, or not at all.

    content: every file that the manifest lists, by its path. signatures: by `SIGNATURES`.
    proof: is called with the package before it has its name, and what it raises ends it.
    Raises UserError where the folder is there already, PackageError for content that is not
    the manifest's, OSError.
    """
    data = manifest.to_bytes()
    _check_content(manifest, content)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _part(folder) as part:
        for path, file in content.items():
            files.make_folder((part / path).parent)
            files.replace(part / path, file)
        for name, signature in (signatures or {}).items():
            files.replace(part / name, signature)
        files.replace(part / MANIFEST_FILE, data)
        # Read back: what a disk did not keep is found before the package has its name.
        package = read(part)
        if proof is not None:
            proof(package)
        _refuse_taken(folder)
        part.rename(folder)
    files.sync_folder(folder.parent)
    return replace(package, folder=folder)


def write_signatures(folder: Path, signatures: Sequence[bytes]) -> None:
    """Put one or two signatures into a package's folder, in the place of all before.

    Raises OSError.
    """
    # An old second one goes first: it would be of another key than the new first one's.
    for name in SIGNATURES[len(signatures) :]:
        (folder / name).unlink(missing_ok=True)
    for name, data in zip(SIGNATURES, signatures, strict=False):
        files.replace(folder / name, data)


def listed(data: bytes) -> ListedFile:
    """Return a file's entry in a manifest."""
    return ListedFile(sha256(data).hexdigest(), len(data))


def _check_content(manifest: Manifest, content: Mapping[str, bytes]) -> None:
    """Raise PackageError for other files than a manifest's."""
    entries = manifest.listed
    if set(content) != set(entries):
        names = first_few(sorted(set(content) ^ set(entries)))
        raise PackageError("missing", f"the manifest and the files differ in: {names}")
    for path, data in content.items():
        if listed(data) != entries[path]:
            raise PackageError("hash", f"'{path}' is not the file that is listed")


@contextlib.contextmanager
def _part(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside another one, which no other process writes.

    It is removed where the block fails. What a killed process left there is cleared.
    """
    # Of no use where packages are only read, and half a megabyte.
    import shutil

    _refuse_taken(folder)
    part = folder.with_name(f".{folder.name}.part")
    files.make_folder(part)
    descriptor = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        _hold(descriptor, part, folder)
        for path in part.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        try:
            yield part
        except BaseException as error:
            shutil.rmtree(part, ignore_errors=True)
            if isinstance(error, OSError):
                _name(error, part, folder)
            raise
    finally:
        os.close(descriptor)


def _name(error: OSError, part: Path, folder: Path) -> None:
    """Have an error in a part name what the part was to become, which the user knows."""
    if error.filename is not None and part in Path(error.filename).parents:
        error.filename = str(folder / Path(error.filename).relative_to(part))


def _hold(descriptor: int, part: Path, folder: Path) -> None:
    """Lock an open folder for this process alone. Raises UserError where another has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The other process may have given the folder its final name just now.
        is_same = os.path.samestat(os.fstat(descriptor), os.stat(part))
    except OSError:
        is_same = False
    if not is_same:
        raise UserError(f"another process is writing '{folder}'; wait for it")


def _refuse_taken(folder: Path) -> None:
    if os.path.lexists(folder):
        raise UserError(
            f"'{folder}' is there already; name another folder, or remove it"
        )


def _check_names(folder: Path, manifest: Manifest, needs_deltas: bool) -> None:
    """Refuse files that are missing, or that nobody listed. Raises PackageError."""
    present = set(_names(folder, ""))
    required = set(manifest.files)
    allowed = {MANIFEST_FILE, *SIGNATURES, *manifest.listed}
    if needs_deltas:
        required = set(manifest.listed)
    missing = sorted(required - present)
    if missing:
        raise PackageError("missing", f"the package lacks {first_few(missing)}")
    extra = sorted(present - allowed)
    if extra:
        names = first_few([shortened(name, 100) for name in extra])
        raise PackageError(
            "extra", f"the package has files that nobody listed: {names}"
        )


def _names(folder: Path, inside: str) -> Iterator[str]:
    """Yield the paths of all files in a folder. Raises PackageError for what is none."""
    with os.scandir(folder / inside) as entries:
        for entry in entries:
            path = f"{inside}{entry.name}"
            if entry.is_symlink():
                raise PackageError("link", f"'{shortened(path, 100)}' is a link")
            # A package has these; whoever put another there did so by hand.
            if entry.is_dir() and path in (DELTAS_FOLDER, FUNCTIONS_FOLDER):
                yield from _names(folder, f"{path}/")
            elif entry.is_file():
                yield path
            else:
                raise PackageError("extra", f"'{shortened(path, 100)}' is no file")


def _check_hashes(package: Package) -> None:
    for path, entry in package.manifest.listed.items():
        if os.path.lexists(package.folder / path):
            for _ in _checked_pieces(package.folder, path, entry):
                pass


def _read_checked(folder: Path, path: str, entry: ListedFile) -> bytearray:
    # Grown as it is read: joined pieces would take the memory twice.
    data = bytearray()
    for piece in _checked_pieces(folder, path, entry):
        data += piece
    return data


def _checked_pieces(folder: Path, path: str, entry: ListedFile) -> Iterator[bytes]:
    """Yield a file in pieces; raises PackageError at its end where the hash is another."""
    digest = sha256()
    with _open(folder, path, entry.bytes, exact=True) as descriptor:
        length = 0
        # One byte more than is listed shows a file that grows.
        while piece := os.read(descriptor, min(_PIECE, entry.bytes + 1 - length)):
            length += len(piece)
            digest.update(piece)
            yield piece
            if length > entry.bytes:
                break
    if digest.hexdigest() != entry.sha256:
        raise PackageError("hash", f"'{path}' has another SHA-256 than is listed")


def _read(folder: Path, path: str, most: int) -> bytes:
    """Return a file that nobody lists. Raises PackageError for a longer one."""
    with _open(folder, path, most, exact=False) as descriptor:
        pieces = []
        length = 0
        while piece := os.read(descriptor, min(_PIECE, most + 1 - length)):
            pieces.append(piece)
            length += len(piece)
            if length > most:
                raise PackageError("limits", f"'{path}' grows while it is read")
    return b"".join(pieces)


@contextlib.contextmanager
def _open(folder: Path, path: str, size: int, exact: bool) -> Iterator[int]:
    """Open an ordinary file of a size for reading. Raises PackageError, also by name."""
    # NONBLOCK: a pipe in the place of a file would wait for a writer.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        descriptor = os.open(folder / path, flags)
    except OSError as error:
        raise PackageError(
            "missing", f"'{path}' cannot be read: {reason_of(error)}"
        ) from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise PackageError("extra", f"'{path}' is no file")
        if status.st_size > size or (exact and status.st_size != size):
            limit = "is listed with" if exact else "may have"
            raise PackageError(
                "size", f"'{path}' has {status.st_size:,} bytes and {limit} {size:,}"
            )
        with files.named(folder / path):
            yield descriptor
    finally:
        os.close(descriptor)
