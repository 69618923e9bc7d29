"""The registry: which versions of a model there are, and which one devices should run.

A folder with a database and files by their content. ``registry.db`` (SQLite) has the versions
of each name, the aliases that point to them, and every move of an alias: who, when, from
which run. ``objects/ab/abcd…`` are the packages' files, each named by its SHA-256, so that
what two versions share lies there once.

Files are written before the one transaction that names them. A process that is killed at any
point leaves a sound registry, and at worst files that nobody names. Writers take turns.
"""

from __future__ import annotations

import getpass
import hashlib
import re
import socket
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any

from fedlearn.errors import FedlearnError, RecordError, UserError
from fedlearn.names import nearest
from fedlearn.package import content, manifest, signature
from fedlearn.package.accepting import check_expiry
from fedlearn.package.content import Package
from fedlearn.package.manifest import Manifest
from fedlearn.package.parts import MANIFEST_FILE
from fedlearn.release import signings, tables
from fedlearn.release.signings import Signing
from fedlearn.release.tables import Move, Version
from fedlearn.system import files

DATABASE_FILE = "registry.db"
OBJECTS_FOLDER = "objects"

# What has just been built, what devices run, and what they ran before.
CANDIDATE = "candidate"
STABLE = "stable"
PREVIOUS = "previous"
ALIASES = (CANDIDATE, STABLE, PREVIOUS)

# What a counter may grow by: room for times in milliseconds, and hundreds of such steps
# below 2**53. One release with the highest counter would be the last of its name.
LARGEST_STEP = 10**13

_ALIAS = re.compile(r"[a-z][a-z0-9-]{0,31}")


@dataclass(frozen=True)
class Reference:
    """Which version is meant: of a name, by its counter or an alias; neither: the newest."""

    name: str
    counter: int | None = None
    alias: str = ""

    @classmethod
    def of(cls, text: str) -> Reference:
        """Return what NAME, NAME:COUNTER or NAME@ALIAS means. Raises UserError."""
        name, _, alias = text.partition("@")
        if alias:
            return cls(name, alias=alias)
        name, colon, counter = text.partition(":")
        if not name or "@" in text or (colon and not counter.isascii()):
            raise UserError(
                f"'{text}' names no version: write NAME, NAME:3 or NAME@stable"
            )
        if not colon:
            return cls(name)
        if not counter.isdigit() or len(counter) > 18:
            raise UserError(f"'{text}' has no counter after the colon: write NAME:3")
        return cls(name, int(counter))


class Registry:
    """A registry's folder. Every method raises RecordError where the disk fails.

    A ``with`` block closes it. One object is for one thread.
    """

    def __init__(self, folder: Path, create: bool = False) -> None:
        """Open the registry in a folder; ``create``: make one where there is none.

        Raises UserError for a folder that has none.
        """
        self.folder = folder
        path = folder / DATABASE_FILE
        with self._failing():
            self._check_lost(path)
        if not create and not path.exists():
            raise UserError(
                f"'{folder}' has no {DATABASE_FILE}; fedlearn release RUN --registry "
                f"{folder} makes one"
            )
        with self._failing():
            if create:
                files.make_folder(folder)
                files.make_folder(folder / OBJECTS_FOLDER)
                # SQLite would make it as the umask says.
                with open(path, "ab", opener=files.private):
                    pass
            self._database = tables.connect(path)

    def __enter__(self) -> Registry:
        """Return the registry."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def names(self) -> list[str]:
        """Return the names of all models, sorted."""
        rows = self._rows("SELECT DISTINCT name FROM versions ORDER BY name")
        return [row[0] for row in rows]

    def versions(self, name: str) -> list[Version]:
        """Return a model's versions, the newest first."""
        return [Version(*row) for row in self._rows(tables.VERSIONS, name)]

    def aliases(self, name: str) -> dict[str, int]:
        """Return the counter that each alias of a model points to."""
        return dict(self._rows(tables.ALIASES, name))

    def history(self, name: str) -> list[Move]:
        """Return every move of a model's aliases, the oldest first."""
        return [Move(*row) for row in self._rows(tables.MOVES, name)]

    def signings(self, name: str) -> list[Signing]:
        """Return every change of a signature of a model's versions, the oldest first."""
        return [Signing(*row) for row in self._rows(tables.SIGNINGS, name)]

    def newest(self, name: str) -> Version | None:
        """Return a model's newest version; None: there is none."""
        versions = self.versions(name)
        return versions[0] if versions else None

    def find(self, reference: Reference) -> Version:
        """Return the version that is meant. Raises UserError, which names what there is."""
        versions = self.versions(reference.name)
        if not versions:
            names = self.names()
            raise UserError(
                f"'{self.folder}' has no model '{reference.name}'."
                f"{nearest(reference.name, names)} Known: {', '.join(names) or 'none'}"
            )
        counter = reference.counter
        if reference.alias:
            aliases = self.aliases(reference.name)
            if reference.alias not in aliases:
                known = ", ".join(sorted(aliases)) or "none"
                raise UserError(
                    f"no version of '{reference.name}' is '{reference.alias}'. "
                    f"Aliases in use: {known}"
                )
            counter = aliases[reference.alias]
        if counter is None:
            return versions[0]
        for version in versions:
            if version.counter == counter:
                return version
        raise UserError(
            f"'{reference.name}' has no version {counter}; the newest is "
            f"{versions[0].counter}"
        )

    def manifest(self, version: Version) -> Manifest:
        """Return a version's manifest. Raises RecordError for a file that was damaged."""
        return manifest.from_bytes(self.file(version, MANIFEST_FILE))

    def file(self, version: Version, path: str) -> bytes:
        """Return a file of a version's package.

        Raises UserError for a path that it has not, RecordError for a file that was damaged.
        """
        rows = self._rows(tables.FILE, version.sha256, path)
        if not rows:
            raise UserError(f"{version.name} {version.counter} has no file '{path}'")
        return self._object(rows[0][0])

    def paths(self, version: Version) -> list[str]:
        """Return the paths of a version's files: the manifest's, its own, and signatures."""
        return [row[0] for row in self._rows(tables.PATHS, version.sha256)]

    def export(self, version: Version, folder: Path) -> Package:
        """Write a version's package to a new folder, whole or not at all.

        Raises UserError where the folder is there already, RecordError for damaged files.
        """
        paths = self.paths(version)
        stored = {path: self.file(version, path) for path in paths}
        description = manifest.from_bytes(stored.pop(MANIFEST_FILE))
        signatures = {
            name: stored.pop(name) for name in content.SIGNATURES if name in stored
        }
        return content.write(folder, description, stored, signatures)

    def add(
        self,
        package: Package,
        who: str = "",
        run: str = "",
        alias: str | None = None,
        replaces: bool = True,
    ) -> Version:
        """Keep a package, and point an alias to it.

        who: "" for this user. run: where the weights come from. alias: "" for none; None for
        the candidate, where the version is new. A package that is there already gets the
        signatures that it has by now; replaces: in the place of all others, too. Raises
        UserError for a counter that is not above those of its name, and for a signature that
        may not be replaced; PackageError for a package that changed, that has expired, or
        whose signatures are none.
        """
        who = who or whoever()
        check_alias(alias or "")
        check_expiry(package.manifest, manifest.now())
        signature.check(package)
        with self._turn():
            version = self._known(package)
            if version is None:
                version = self._insert(package, who, run)
                alias = CANDIDATE if alias is None else alias
            self._sign(version, package.signatures(), who, replaces)
            if alias:
                self._point(version.name, alias, version.counter, "add", who)
        return version

    def promote(self, name: str, counter: int | None = None, who: str = "") -> Version:
        """Make a version the stable one, and what was stable the previous one.

        counter: None for the candidate. Raises UserError where there is no such version, or
        where it is stable already.
        """
        who = who or whoever()
        with self._turn():
            reference = Reference(name, counter, CANDIDATE if counter is None else "")
            version = self.find(reference)
            aliases = self.aliases(name)
            before = aliases.get(STABLE)
            if before == version.counter:
                raise UserError(
                    f"version {version.counter} of '{name}' is stable already"
                )
            check_expiry(self.manifest(version), manifest.now())
            self._point(name, STABLE, version.counter, "promote", who)
            if before is not None:
                self._point(name, PREVIOUS, before, "promote", who)
            if aliases.get(CANDIDATE) == version.counter:
                self._point(name, CANDIDATE, None, "promote", who)
        return version

    def rollback(self, name: str, who: str = "") -> Version:
        """Make the previous version the stable one again; then there is no previous one.

        Raises UserError where there is none, PackageError where it has expired.
        """
        who = who or whoever()
        with self._turn():
            version = self.find(Reference(name, alias=PREVIOUS))
            check_expiry(self.manifest(version), manifest.now())
            self._point(name, STABLE, version.counter, "rollback", who)
            self._point(name, PREVIOUS, None, "rollback", who)
        return version

    def _known(self, package: Package) -> Version | None:
        """Return the version that a package is already; None: a new one. Raises UserError."""
        name = package.manifest.name
        counter = package.manifest.counter
        versions = self.versions(name)
        for version in versions:
            if version.sha256 == package.sha256:
                return version
        if versions and counter <= versions[0].counter:
            raise UserError(
                f"'{name}' has version {versions[0].counter} already: a release's counter is "
                f"above that, not {counter}"
            )
        newest = versions[0].counter if versions else 0
        if counter > newest + LARGEST_STEP:
            raise UserError(
                f"'{name}' has version {newest}, and counter {counter} is more than "
                f"{LARGEST_STEP} above: no release could follow; give the next number"
            )
        return None

    def _sign(
        self,
        version: Version,
        signatures: Mapping[str, bytes],
        who: str,
        replaces: bool,
    ) -> None:
        """Keep a version's signatures, and remember what they take the place of."""
        before = {}
        for path in content.SIGNATURES:
            for row in self._rows(tables.FILE, version.sha256, path):
                before[path] = row[0]
        after = {
            path: hashlib.sha256(data).hexdigest() for path, data in signatures.items()
        }
        changes = list(signings.changed(before, after, replaces))
        keys = {path: self._key_of(before[path], path) for path in before}
        for path, old, new in changes:
            if not replaces:
                signings.check_kept(version, path, old)
            if new is None:
                self._do(tables.DELETE_FILE, version.sha256, path)
        for path, data in signatures.items():
            # One that is there, too: its file may be damaged.
            self._keep(version, path, data)
        for path, _, new in changes:
            key = None if new is None else self._key_of(new, path)
            change = (path, keys.get(path), key, who, _now())
            self._do(tables.INSERT_SIGNING, version.name, version.counter, *change)

    def _key_of(self, sha256: str, path: str) -> str:
        """Return the key that a signature's file names; "": the file cannot be read."""
        try:
            return signature.read(self._object(sha256), path).key
        except FedlearnError:
            return ""

    def _check_lost(self, path: Path) -> None:
        """Refuse a registry that has files and no database: counters would begin anew.

        Raises RecordError.
        """
        objects = self.folder / OBJECTS_FOLDER
        # The files first: another process makes the database before any of them.
        has_files = objects.is_dir() and any(objects.iterdir())
        if has_files and not (path.exists() and path.stat().st_size):
            raise RecordError(
                f"'{path}' is empty or gone, though '{objects}' has files: it says which "
                "version each of them is of. Restore it from a copy of the registry, or "
                "release the packages into a new folder (--registry)"
            )

    def _insert(self, package: Package, who: str, run: str) -> Version:
        """Keep a new package's files, then name them."""
        description = package.manifest
        size = sum(entry.bytes for entry in description.files.values())
        version = Version(
            name=description.name,
            counter=description.counter,
            sha256=package.sha256,
            weights_sha256=description.weights_sha256,
            bytes=size,
            run=run,
            model_sha256=description.run.model_sha256,
            config_sha256=description.run.config_sha256,
            who=who,
            time=_now(),
        )
        self._do(tables.INSERT_VERSION, *version.row)
        self._keep(version, MANIFEST_FILE, description.to_bytes())
        for path in description.listed:
            self._keep(version, path, package.file(path))
        return version

    def _keep(self, version: Version, path: str, data: bytes) -> None:
        """Write a file by its content, and name it as a version's."""
        sha256 = hashlib.sha256(data).hexdigest()
        place = self._place(sha256)
        # One that was damaged is mended by the next version that has it.
        if not place.exists() or files.sha256(place) != sha256:
            files.make_folder(place.parent)
            files.replace(place, data)
        self._do(tables.INSERT_FILE, version.sha256, path, sha256, len(data))

    def _object(self, sha256: str) -> bytes:
        with self._failing():
            data = self._place(sha256).read_bytes()
        if hashlib.sha256(data).hexdigest() != sha256:
            raise RecordError(
                f"'{self._place(sha256)}' is damaged: its SHA-256 is another; add the package "
                "that it belongs to again, or restore the registry from a copy"
            )
        return data

    def _place(self, sha256: str) -> Path:
        return self.folder / OBJECTS_FOLDER / sha256[:2] / sha256

    def _point(
        self, name: str, alias: str, counter: int | None, action: str, who: str
    ) -> None:
        """Point an alias to a version, or to none, and remember that."""
        before = self.aliases(name).get(alias)
        if before == counter:
            return
        if counter is None:
            self._do(tables.DELETE_ALIAS, name, alias)
        else:
            self._do(tables.INSERT_ALIAS, name, alias, counter)
        self._do(tables.INSERT_MOVE, name, alias, before, counter, action, who, _now())

    def _rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with self._failing():
            return self._database.execute(statement, values).fetchall()

    def _do(self, statement: str, *values: object) -> None:
        self._database.execute(statement, values)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Be the one writer for a block: all of what it does is there, or nothing."""
        with self._failing():
            # Waits for another writer's end; the system ends the turn of one that was killed.
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._database.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    self._database.execute("ROLLBACK")
                raise

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except FedlearnError:
            raise
        except OSError as error:
            place = error.filename or self.folder
            raise RecordError(
                f"the registry '{self.folder}' cannot be used: '{place}': "
                f"{error.strerror or error}"
            ) from error
        except sqlite3.Error as error:
            raise RecordError(
                f"the registry '{self.folder}' cannot be used: {DATABASE_FILE}: {error}"
            ) from error


def whoever() -> str:
    """Return who runs this process, as the history names them: user@machine."""
    try:
        user = getpass.getuser()
    # A container may run as a number without a name.
    except (KeyError, OSError):
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


def check_alias(alias: str) -> None:
    """Raise UserError for a word that cannot be an alias; "" is none."""
    if alias and not _ALIAS.fullmatch(alias):
        raise UserError(
            f"'{alias}' cannot be an alias: use up to 32 of a-z, 0-9 and '-', a letter first"
        )


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
