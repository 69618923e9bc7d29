"""A device's two slots on its disk: whole packages, and the one record that names the active one.

    record.json    replaced by a rename, after its bytes are on disk: the only commit
    a/, b/         packages; the slot that is not active may be absent, and is never half there
    incoming/      files of a release that is on its way

Whatever kills the agent, at any moment, the record is the old one or the new one, and what it
names is whole. What else lies in the folder is swept at the next start. Reading a written slot
back before it is named is RAUC's lesson (rauc#459).
"""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from fedlearn.clients.device import record_file
from fedlearn.clients.installed import SLOTS, InstallRecord, Slot
from fedlearn.errors import PackageError, RecordError, UserError, reason_of
from fedlearn.exchange.releases import ReleaseId
from fedlearn.package.parts import MANIFEST_FILE
from fedlearn.system import files
from fedlearn.system.failpoints import reach

if TYPE_CHECKING:
    from fedlearn.package.content import Package

RECORD_FILE = "record.json"
# A record that nobody can read is put here, for who wants to know why.
DAMAGED_FILE = "record.damaged.json"
INCOMING = "incoming"

# As `fedlearn.package.content` has them, which loads numpy.
SIGNATURES = ("model.sig", "model.next.sig")

# Copied at a time, so that a board needs no memory for the file.
_PIECE = 1 << 20


class InstallDisk:
    """See the module. One process at a time may use a folder, and `sweep` it before."""

    def __init__(self, folder: Path) -> None:
        """Take a folder, made if it is not there. Raises RecordError."""
        self.folder = folder
        try:
            files.make_folder(folder)
            files.make_folder(folder / INCOMING)
        except OSError as error:
            raise RecordError(
                f"'{folder}' cannot be used: {reason_of(error)}"
            ) from None

    def sweep(self) -> None:
        """Remove what a process left that was killed. Raises OSError."""
        files.sweep(self.folder)
        self._sweep_slots()

    # The record

    def read(self) -> InstallRecord:
        """Return the record; of a folder without one, of a device without a model.

        A damaged record is set aside: what the slots hold is fetched again. Raises RecordError
        where the disk cannot be read at all.
        """
        path = self.folder / RECORD_FILE
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return InstallRecord(uuid.uuid4().hex)
        except OSError as error:
            raise RecordError(f"'{path}' cannot be read: {reason_of(error)}") from None
        try:
            return record_file.loads(data)
        except PackageError:
            path.replace(self.folder / DAMAGED_FILE)
        # Another instance: the coordinator must not take it for older news of this one.
        return InstallRecord(uuid.uuid4().hex)

    def write(self, record: InstallRecord) -> None:
        """Replace the record; it is on disk when this returns. Raises OSError."""
        reach("install.before-record")
        files.replace(self.folder / RECORD_FILE, record_file.dumps(record))
        reach("install.after-record")

    # The slots

    def place(self, slot: Slot) -> Path:
        """Return a slot's folder."""
        return self.folder / slot

    def objection(self, slot: Slot, release: ReleaseId) -> str | None:
        """Return why a slot is not a release, after reading every byte; None: it is."""
        # Here and not above: an agent that only waits loads no numpy.
        from fedlearn.package import content

        try:
            package = content.read(self.place(slot))
        except (PackageError, UserError, OSError) as error:
            return reason_of(error)
        if package.sha256 == release.digest:
            return None
        return f"slot {slot} holds another release than {release}"

    def intact(self, record: InstallRecord) -> set[Slot]:
        """Return the slots that hold what a record says."""
        return {
            slot
            for slot, holding in record.contents.items()
            if self.objection(slot, holding.release) is None
        }

    def stage(self, package: Package, slot: Slot, release: ReleaseId) -> None:
        """Make a slot hold a package, which is there whole or not at all.

        The record must not name the slot meanwhile. Raises PackageError where the disk gives
        back other bytes than were written, OSError.
        """
        from fedlearn.package import content

        self._clear(slot)
        part = self._part(slot)
        part.mkdir(0o700)
        for path in self._copied(package):
            (part / path).parent.mkdir(exist_ok=True)
            copy(package.folder / path, part / path)
            reach("install.half-staged")
        # Each folder's own list of names has to be on disk, not the uppermost alone.
        for folder in {(part / path).parent for path in self._copied(package)}:
            files.sync_folder(folder)
        # From the disk, by the manifest's own hashes.
        if content.read(part).sha256 != release.digest:
            text = f"slot {slot} got another release than {release}"
            raise PackageError("hash", text)
        part.rename(self.place(slot))
        files.sync_folder(self.folder)
        reach("install.staged")

    def _copied(self, package: Package) -> list[str]:
        """Return the paths that a slot gets: all but the differences, and the manifest last."""
        signatures = [name for name in SIGNATURES if (package.folder / name).exists()]
        return [*package.manifest.files, *signatures, MANIFEST_FILE]

    def _clear(self, slot: Slot) -> None:
        """Make a slot absent, in one step."""
        place = self.place(slot)
        if place.exists():
            # A folder that is half removed would look like a package that is half there.
            place.rename(self._old(slot))
            files.sync_folder(self.folder)
        reach("install.cleared")
        self._sweep_slots()

    def _sweep_slots(self) -> None:
        for slot in SLOTS:
            for leftover in (self._part(slot), self._old(slot)):
                if leftover.exists():
                    shutil.rmtree(leftover)

    def _part(self, slot: Slot) -> Path:
        return self.folder / f".{slot}.staging"

    def _old(self, slot: Slot) -> Path:
        return self.folder / f".{slot}.old"


def copy(source: Path, target: Path) -> None:
    """Copy a file, so that it is on disk when this returns. Raises OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(target, flags, files.PRIVATE)
    with open(source, "rb") as reader, open(descriptor, "wb") as writer:
        files.give_to_owner(writer.fileno(), target.parent)
        while piece := reader.read(_PIECE):
            writer.write(piece)
        writer.flush()
        os.fsync(writer.fileno())
