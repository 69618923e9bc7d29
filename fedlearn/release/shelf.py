"""The packages that a fleet's rollouts are about: checked when they come, read as they lie.

FLEET/packages/DIGEST/    a package, named by the SHA-256 of its manifest
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

from fedlearn.errors import RecordError, UserError
from fedlearn.exchange.release_frames import Offer
from fedlearn.exchange.releases import ReleaseId, WantedRelease
from fedlearn.package import content, keys, signature
from fedlearn.package.accepting import check_expiry
from fedlearn.package.content import Package
from fedlearn.package.manifest import MOST_BYTES, from_bytes, now
from fedlearn.package.parts import MANIFEST_FILE
from fedlearn.system import files

PACKAGES = "packages"

# A frame has at most 4 MB, and the signatures go with the manifest.
MOST_MANIFEST_BYTES = min(MOST_BYTES, 3 << 20)


class PackageShelf:
    """See the module."""

    def __init__(self, folder: Path) -> None:
        """Take a fleet's folder, which is there."""
        self.folder = folder / PACKAGES

    def add(self, source: Path, key: bytes | None) -> ReleaseId:
        """Copy a package here, whole or not at all, and return its name.

        key: PEM, its signature has to be that key's; None: any signature will do here, devices
        look for themselves. Raises PackageError and UserError for one that no device could take.
        """
        package = content.read(source)
        accepted = {}
        if key is not None:
            accepted[keys.fingerprint(key)] = key
            signature.verify(package, accepted)
        elif not package.signatures():
            raise UserError(
                f"'{source}' is not signed, and no device takes it: fedlearn sign "
                f"{source} --key KEY"
            )
        if (source / MANIFEST_FILE).stat().st_size > MOST_MANIFEST_BYTES:
            raise UserError(
                f"the manifest of '{source}' has more than {MOST_MANIFEST_BYTES:,} bytes, "
                "which a frame can carry"
            )
        manifest = package.manifest
        release = ReleaseId(manifest.name, manifest.counter, package.sha256)
        check_expiry(manifest, now())
        if not self.place(release).exists():
            self._copy(package, release)
        else:
            self._sign(package, release)
        return release

    def offer(self, wanted: WantedRelease) -> Offer:
        """Return what a device is told of a release. Raises FedlearnError, OSError."""
        release = wanted.release
        if release is None:
            return Offer(wanted)
        place = self.place(release)
        data = (place / MANIFEST_FILE).read_bytes()
        signatures = []
        for name in content.SIGNATURES:
            if (place / name).exists():
                signatures.append((place / name).read_bytes())
        return Offer(wanted, data, tuple(signatures))

    def file(self, release: ReleaseId, place: int) -> bytes | None:
        """Return a file by its place among the manifest's sorted paths; None: no such file."""
        folder = self.place(release)
        manifest = from_bytes((folder / MANIFEST_FILE).read_bytes())
        paths = sorted(manifest.listed)
        if place >= len(paths) or not (folder / paths[place]).exists():
            return None
        return (folder / paths[place]).read_bytes()

    def place(self, release: ReleaseId) -> Path:
        """Return the folder of a release, which may not be there."""
        return self.folder / release.digest

    def _sign(self, package: Package, release: ReleaseId) -> None:
        """Give a package that is here the signatures that it has by now."""
        place = self.place(release)
        signatures = package.signatures()
        if replace(package, folder=place).signatures() != signatures:
            content.write_signatures(place, list(signatures.values()))

    def _copy(self, package: Package, release: ReleaseId) -> None:
        part = self.folder / f".{release.digest}.part"
        # What a killed process left is no beginning of this one.
        shutil.rmtree(part, ignore_errors=True)
        files.make_folder(self.folder)
        try:
            shutil.copytree(package.folder, part)
        # It collects what failed of each file, in a form that no line can show.
        except shutil.Error as error:
            _, path, reason = error.args[0][0]
            raise RecordError(f"'{path}' cannot be written: {reason}") from None
        # As read back: what is offered later is what was checked now.
        if content.read(part).sha256 != release.digest:
            raise UserError(f"'{package.folder}' changed while it was copied")
        for path in part.rglob("*"):
            if path.is_file():
                _sync(path)
        part.rename(self.place(release))
        files.sync_folder(self.folder)


def _sync(path: Path) -> None:
    """Bring a file to disk."""
    with files.named(path), open(path, "rb") as file:
        os.fsync(file.fileno())
