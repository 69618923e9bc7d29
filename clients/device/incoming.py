"""The files of a release on their way to a device: resumed, reused, or made from a difference.

    incoming/DIGEST/          a package that grows: manifest, signatures, files that are whole
    incoming/DIGEST.parts/    files that are not, each named by its place

What a slot holds already is copied. Of the weights a difference is fetched where one leads on
from a slot's own: a few kilobytes, whose end is the same bits. Without numpy: differences are
decoded by `fedlearn.clients.device.release_work`.
"""

from __future__ import annotations

import hashlib
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

from fedlearn.clients.device.slots import INCOMING, SIGNATURES, InstallDisk, copy
from fedlearn.clients.installed import SLOTS
from fedlearn.errors import PackageError
from fedlearn.exchange.release_frames import Offer
from fedlearn.exchange.releases import ReleaseId
from fedlearn.package import manifest as manifests
from fedlearn.package.manifest import Manifest
from fedlearn.package.parts import (
    DELTAS_FOLDER,
    GOLDEN_FILE,
    MANIFEST_FILE,
    WEIGHTS_FILE,
    ListedFile,
)
from fedlearn.system import files

# The head of a zip file's entry: mark, version, flags, method, time, day, CRC-32, the size
# twice, and the lengths of its name and of what else is said (APPNOTE 6.3, PKWARE).
_ENTRY = struct.Struct("<4s5H3L2H")


class IncomingRelease:
    """See the module."""

    def __init__(self, disk: InstallDisk, offer: Offer, most_bytes: int) -> None:
        """Begin, or go on, with what is offered. most_bytes: of all files that travel.

        Raises PackageError for a manifest that is not the release's, OSError.
        """
        release = offer.wanted.release
        assert release is not None
        self.disk = disk
        self.manifest = _manifest(release, offer.manifest)
        self.folder = disk.folder / INCOMING / release.digest
        self._parts = disk.folder / INCOMING / f"{release.digest}.parts"
        # Sorted, so that both ends mean the same file by a place.
        self._paths = sorted(self.manifest.listed)
        # Of the way from a slot's weights, in its order; each names only where it begins.
        self._differences: list[str] = []
        self._clear_others()
        for folder in (self.folder, self._parts):
            files.make_folder(folder)
        self._write_heads(offer)
        self._reuse()
        # Files whose beginning is a copy of a slot's, which may be another's.
        self._guesses: set[str] = set()
        self._begin_golden()
        self._first_difference()
        size = sum(self.manifest.listed[path].bytes for path in self.missing())
        if size > most_bytes:
            text = f"{size:,} bytes would travel, and the owner lets {most_bytes:,}"
            raise PackageError("size", text)

    def missing(self) -> list[str]:
        """Return the paths that still have to come, in the order in which they are asked."""
        paths = list(self.manifest.files)
        if self._differences:
            paths.remove(WEIGHTS_FILE)
            paths += self._differences
        return [path for path in paths if not (self.folder / path).exists()]

    def place(self, path: str) -> int:
        """Return a file's place among the manifest's sorted paths."""
        return self._paths.index(path)

    def length(self, path: str) -> int:
        """Return how many bytes of a file are here."""
        part = self._part(path)
        return part.stat().st_size if part.exists() else 0

    def add(self, place: int, offset: int, data: bytes) -> int:
        """Take a part of a file; returns how many of its bytes are here now.

        What does not follow on what is here, or exceeds the listed size, is not taken. Raises
        OSError.
        """
        if place >= len(self._paths):
            return 0
        path = self._paths[place]
        length = self.length(path)
        listed = self.manifest.listed[path]
        if offset != length or offset + len(data) > listed.bytes:
            return length
        # Not synced: every byte is compared with its hash before it counts.
        with open(self._part(path), "ab") as file:
            file.write(data)
        return length + len(data)

    def finish(self, path: str) -> bool:
        """Take a file that is as long as it is listed; returns whether it is that file.

        If not, it has to come once more. Raises OSError.
        """
        part = self._part(path)
        listed = self.manifest.listed[path]
        self._guesses.discard(path)
        # An empty file has no chunk that would have made it.
        if listed.bytes == 0:
            part.touch()
        if files.sha256(part) != listed.sha256:
            part.unlink()
            return False
        (self.folder / path).parent.mkdir(exist_ok=True)
        part.replace(self.folder / path)
        return True

    def is_guess(self, path: str) -> bool:
        """Tell whether a file's beginning is a copy of a slot's; its hash shows it by `finish`."""
        return path in self._guesses

    def need(self, file: str) -> bool:
        """Note a difference that the way to the weights needs next; False: they come whole.

        It has to be listed, and all of them together shorter than the weights.
        """
        by_file = {delta.file: delta for delta in self.manifest.deltas}
        way = [*self._differences, file]
        if file in self._differences or not set(way) <= set(by_file):
            return False
        if sum(by_file[name].bytes for name in way) >= self._weight_bytes():
            return False
        self._differences = way
        return True

    def has_differences(self) -> bool:
        """Tell whether the weights are to be made of what came."""
        return bool(self._differences)

    def give_up_differences(self) -> None:
        """Have the weights come whole: the differences did not lead to them."""
        self._differences = []
        shutil.rmtree(self.folder / DELTAS_FOLDER, ignore_errors=True)

    def _first_difference(self) -> None:
        """Find a difference that leads on from a slot's weights."""
        if (self.folder / WEIGHTS_FILE).exists():
            return
        by_base = {delta.base_sha256: delta for delta in self.manifest.deltas}
        for base in self._slots():
            delta = by_base.get(base.weights_sha256)
            if delta is not None and self.need(delta.file):
                return

    def _weight_bytes(self) -> int:
        return self.manifest.files[WEIGHTS_FILE].bytes

    def _part(self, path: str) -> Path:
        return self._parts / str(self.place(path))

    def _clear_others(self) -> None:
        """Remove what is here of other releases: one at a time is on its way."""
        for folder in (self.disk.folder / INCOMING).iterdir():
            if folder not in (self.folder, self._parts):
                shutil.rmtree(folder)

    def _write_heads(self, offer: Offer) -> None:
        for name, data in zip(SIGNATURES, offer.signatures, strict=False):
            files.replace(self.folder / name, data)
        files.replace(self.folder / MANIFEST_FILE, offer.manifest)

    def _reuse(self) -> None:
        """Copy what a slot holds already; a slot that is damaged shows by its hash."""
        for path, listed in self.manifest.files.items():
            if (self.folder / path).exists():
                continue
            for source in self._copies(listed):
                if source.exists() and files.sha256(source) == listed.sha256:
                    self._part(path).unlink(missing_ok=True)
                    copy(source, self._part(path))
                    self._part(path).replace(self.folder / path)
                    break

    def _begin_golden(self) -> None:
        """Begin the golden file with a slot's inputs, where none of it is here.

        They stand first, are most of its bytes, and seldom change from one release to the
        next: beside a difference of weights they would be half of what travels.
        """
        part = self._part(GOLDEN_FILE)
        if GOLDEN_FILE not in self.missing() or part.exists():
            return
        for slot in SLOTS:
            begin = _first_entry(self.disk.place(slot) / GOLDEN_FILE)
            if 0 < len(begin) < self.manifest.listed[GOLDEN_FILE].bytes:
                part.write_bytes(begin)
                self._guesses.add(GOLDEN_FILE)
                return

    def _copies(self, wanted: ListedFile) -> Iterator[Path]:
        """Yield the files of the slots whose manifests list these bytes."""
        for slot in SLOTS:
            manifest = self._slot_manifest(self.disk.place(slot))
            for path, listed in manifest.files.items() if manifest else ():
                if listed == wanted:
                    yield self.disk.place(slot) / path

    def _slots(self) -> Iterator[Manifest]:
        for slot in SLOTS:
            manifest = self._slot_manifest(self.disk.place(slot))
            if manifest is not None:
                yield manifest

    def _slot_manifest(self, place: Path) -> Manifest | None:
        try:
            return manifests.from_bytes((place / MANIFEST_FILE).read_bytes())
        except (OSError, PackageError):
            return None


def _first_entry(path: Path) -> bytes:
    """Return the first array of a golden file with its head; b"" where there is none.

    `fedlearn.package.npz` writes the form; it loads numpy, which an agent does without.
    """
    try:
        data = path.read_bytes()
        _, *_, size, name_length, extra_length = _ENTRY.unpack_from(data)
    except (OSError, struct.error):
        return b""
    return data[: _ENTRY.size + name_length + extra_length + size]


def _manifest(release: ReleaseId, data: bytes) -> Manifest:
    """Return the manifest of a release. Raises PackageError for another's bytes."""
    if hashlib.sha256(data).hexdigest() != release.digest:
        raise PackageError("hash", f"the manifest is not that of {release}")
    manifest = manifests.from_bytes(data)
    if (manifest.name, manifest.counter) != (release.name, release.counter):
        raise PackageError("name", f"the manifest names another release than {release}")
    return manifest
