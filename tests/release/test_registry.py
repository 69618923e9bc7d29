"""The registry: what it keeps, and that no kill and no other writer leaves it half done."""

import json
import sqlite3
import subprocess
import sys
import tempfile
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest

from fedlearn.errors import PackageError, RecordError, UserError
from fedlearn.package import content, manifest, signature
from fedlearn.release.registry import (
    CANDIDATE,
    DATABASE_FILE,
    PREVIOUS,
    STABLE,
    Reference,
    Registry,
)
from fedlearn.server.release import make_pair
from tests.package import small

ROOT = Path(__file__).parents[2]


def packed(folder: Path, counter: int, name: str = "small"):
    """Return a package whose weights are its counter's."""
    files = small.files(small.W + np.float32(counter))
    manifest = replace(small.manifest(files), counter=counter, name=name)
    return content.write(folder / f"{name}-{counter}", manifest, files)


def marked(package, key) -> bytes:
    """Sign a package's folder by one key, and return the signature's file."""
    data = signature.sign(package, key.sign, key.public_pem)
    content.write_signatures(package.folder, [data])
    return data


@pytest.fixture
def registry(tmp_path):
    with Registry(tmp_path / "registry", create=True) as opened:
        yield opened


def sound(folder: Path) -> None:
    """Fail unless every file of every version is there, and the moves tell the aliases."""
    with Registry(folder) as registry:
        state = registry._rows("PRAGMA integrity_check")
        assert state == [("ok",)]
        for name in registry.names():
            for version in registry.versions(name):
                manifest = registry.manifest(version)
                paths = set(registry.paths(version)) - set(content.SIGNATURES)
                assert paths == {*manifest.listed, "manifest.json"}
                for path in paths:
                    registry.file(version, path)
            aliases: dict[str, int | None] = {}
            for move in registry.history(name):
                assert aliases.get(move.alias) == move.before
                aliases[move.alias] = move.after
            known = {alias: to for alias, to in aliases.items() if to is not None}
            assert known == registry.aliases(name)


def test_no_counter_ends_a_name(registry, tmp_path):
    with pytest.raises(UserError, match="no release could follow"):
        registry.add(packed(tmp_path, 2**53 - 1))
    # A time in milliseconds may count, and grow.
    for counter in (1_796_000_000_000, 1_796_000_000_001):
        assert registry.add(packed(tmp_path, counter)).counter == counter


def test_what_is_added_comes_back(registry, tmp_path):
    package = packed(tmp_path, 3)
    version = registry.add(package, who="ann@desk", run="runs/a")
    assert (version.name, version.counter, version.who) == ("small", 3, "ann@desk")
    assert version.run == "runs/a"
    assert version.weights_sha256 == package.manifest.weights_sha256
    again = registry.export(version, tmp_path / "again")
    assert again.sha256 == package.sha256
    assert small.sha256(tmp_path / "again") == small.sha256(package.folder)
    sound(registry.folder)


def test_equal_files_lie_there_once(registry, tmp_path):
    registry.add(packed(tmp_path, 3))
    before = set(registry.folder.glob("objects/*/*"))
    registry.add(packed(tmp_path, 4))
    added = set(registry.folder.glob("objects/*/*")) - before
    # The manifest, the weights and the golden outputs; the graph is the same.
    assert len(added) == 3


def test_a_signature_comes_later(registry, tmp_path):
    package = packed(tmp_path, 3)
    registry.add(package)
    registry.promote("small")
    first = marked(package, make_pair(tmp_path / "first"))
    version = registry.add(package)
    assert "model.sig" in registry.paths(version)
    # It is the stable one, and no candidate again.
    assert registry.aliases("small") == {STABLE: 3}
    # A stranger's does not take its place, unless the owner says so.
    marked(package, make_pair(tmp_path / "other"))
    with pytest.raises(UserError, match=r"small 3 has another model\.sig already"):
        registry.add(package, replaces=False)
    assert registry.file(version, "model.sig") == first
    registry.add(package)
    assert registry.file(version, "model.sig") != first


def two_signed(package, *keys):
    marks = [signature.sign(package, key.sign, key.public_pem) for key in keys]
    content.write_signatures(package.folder, marks)


def test_a_second_signature_goes_with_the_first_and_the_history_tells(
    registry, tmp_path
):
    package = packed(tmp_path, 3)
    keys = [make_pair(tmp_path / name) for name in ("old", "new")]
    two_signed(package, *keys)
    version = registry.add(package, who="ann")
    assert set(content.SIGNATURES) <= set(registry.paths(version))
    # The same again changes nothing, and neither does a folder without signatures.
    registry.add(package)
    content.write_signatures(package.folder, [])
    registry.add(package)
    assert len(registry.signings("small")) == 2
    two_signed(package, keys[1])
    registry.add(package, who="bob")
    assert "model.next.sig" not in registry.paths(version)
    fetched = registry.export(version, tmp_path / "out")
    assert list(fetched.signatures()) == ["model.sig"]
    old, new = (key.fingerprint for key in keys)
    changes = [
        (change.path, change.before, change.after, change.who)
        for change in registry.signings("small")
    ]
    assert changes == [
        ("model.sig", None, old, "ann"),
        ("model.next.sig", None, new, "ann"),
        ("model.sig", old, new, "bob"),
        ("model.next.sig", new, None, "bob"),
    ]
    assert registry.signings("other") == []


def test_an_upload_takes_no_signature_away(registry, tmp_path):
    package = packed(tmp_path, 3)
    keys = [make_pair(tmp_path / name) for name in ("old", "new")]
    two_signed(package, *keys)
    version = registry.add(package)
    two_signed(package, keys[0])
    registry.add(package, replaces=False)
    assert set(content.SIGNATURES) <= set(registry.paths(version))


def test_a_signature_whose_file_is_damaged_is_replaced(registry, tmp_path):
    package = packed(tmp_path, 3)
    marked(package, make_pair(tmp_path / "old"))
    version = registry.add(package)
    sha256 = registry._rows(
        "SELECT sha256 FROM files WHERE path = 'model.sig' AND package = ?",
        version.sha256,
    )[0][0]
    registry._place(sha256).write_bytes(b"other")
    marked(package, make_pair(tmp_path / "new"))
    registry.add(package)
    assert registry.signings("small")[-1].before == ""


def test_a_registry_of_the_format_before_gets_its_signings(tmp_path):
    with Registry(tmp_path / "r", create=True) as registry:
        registry.add(packed(tmp_path, 3))
    with sqlite3.connect(tmp_path / "r" / DATABASE_FILE) as database:
        database.execute("DROP TABLE signings")
        database.execute("PRAGMA user_version = 1")
    with Registry(tmp_path / "r") as registry:
        assert registry.signings("small") == []
        assert [version.counter for version in registry.versions("small")] == [3]


def test_what_has_expired_is_neither_kept_nor_made_stable(
    registry, tmp_path, monkeypatch
):
    files = small.files()
    for counter, year in ((1, 2098), (2, 2001), (3, 2099)):
        expires = f"{year}-01-01T00:00:00Z"
        description = replace(small.manifest(files), counter=counter, expires=expires)
        package = content.write(tmp_path / str(counter), description, files)
        if year > 2001:
            registry.add(package)
            registry.promote("small")
            continue
        with pytest.raises(PackageError, match=r"refused \(expired\).* 2001-01-01"):
            registry.add(package)
        assert [version.counter for version in registry.versions("small")] == [1]
    # Later on, what was sound has expired.
    late = datetime(2098, 6, 1, tzinfo=timezone.utc)
    monkeypatch.setattr(manifest, "now", lambda: late)
    for move in (registry.rollback, lambda name: registry.promote(name, 1)):
        with pytest.raises(PackageError, match=r"refused \(expired\)"):
            move("small")
    assert registry.aliases("small") == {STABLE: 3, PREVIOUS: 1}


def test_what_is_no_signature_takes_no_place(registry, tmp_path):
    package = packed(tmp_path, 3)
    first = marked(package, make_pair(tmp_path / "keys"))
    version = registry.add(package)
    other = packed(tmp_path, 4)
    second = marked(other, make_pair(tmp_path / "other"))
    for data in (b"garbage", b"{}", second):
        (package.folder / "model.sig").write_bytes(data)
        with pytest.raises(PackageError, match=r"refused \(signature\)"):
            registry.add(package)
    assert registry.file(version, "model.sig") == first


@pytest.mark.parametrize("lost", [Path.unlink, lambda path: path.write_bytes(b"")])
def test_a_registry_without_its_database_does_not_begin_anew(registry, tmp_path, lost):
    registry.add(packed(tmp_path, 3))
    registry.close()
    lost(registry.folder / DATABASE_FILE)
    for create in (True, False):
        # What only looks must not send its user to begin anew.
        with pytest.raises(RecordError, match=r"is empty or gone, though .*Restore it"):
            Registry(registry.folder, create)


def test_aliases_move_and_the_history_tells(registry, tmp_path):
    for counter in (1, 2, 5):
        registry.add(packed(tmp_path, counter), who="ann")
        registry.promote("small", who="bob")
    assert registry.aliases("small") == {STABLE: 5, PREVIOUS: 2}
    assert registry.rollback("small", who="cy").counter == 2
    assert registry.aliases("small") == {STABLE: 2}
    last = [
        (move.action, move.alias, move.before, move.after, move.who)
        for move in registry.history("small")
    ][-2:]
    assert last == [
        ("rollback", STABLE, 5, 2, "cy"),
        ("rollback", PREVIOUS, 2, None, "cy"),
    ]
    registry.promote("small", 1)
    assert registry.aliases("small") == {STABLE: 1, PREVIOUS: 2}
    sound(registry.folder)


def test_what_cannot_be_is_told_in_a_sentence(registry, tmp_path):
    registry.add(packed(tmp_path, 3))
    with pytest.raises(UserError, match=r"has version 3 already: .* not 2"):
        registry.add(packed(tmp_path, 2))
    with pytest.raises(UserError, match="cannot be an alias"):
        registry.add(packed(tmp_path, 4), alias="Stable!")
    with pytest.raises(UserError, match=r"Did you mean 'small'\?"):
        registry.find(Reference("smal"))
    with pytest.raises(UserError, match="has no version 9; the newest is 3"):
        registry.find(Reference("small", 9))
    with pytest.raises(UserError, match="Aliases in use: candidate"):
        registry.rollback("small")
    registry.promote("small")
    with pytest.raises(UserError, match="is stable already"):
        registry.promote("small", 3)
    with pytest.raises(UserError, match="no file 'x'"):
        registry.file(registry.find(Reference("small")), "x")
    with pytest.raises(UserError, match=r"has no registry\.db"):
        Registry(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("a", Reference("a")),
        ("a:3", Reference("a", 3)),
        ("a@stable", Reference("a", alias="stable")),
    ],
)
def test_a_version_is_named_in_three_ways(text, reference):
    assert Reference.of(text) == reference


@pytest.mark.parametrize(
    "text", ["", ":3", "a:", "a:x", "a:-1", "a:²", "a@", "a:" + "9" * 30]
)
def test_other_names_are_refused(text):
    with pytest.raises(UserError):
        Reference.of(text)


def test_a_damaged_file_is_told_and_mended_by_adding_again(registry, tmp_path):
    package = packed(tmp_path, 3)
    version = registry.add(package)
    place = registry._place(version.weights_sha256)
    place.write_bytes(b"other")
    with pytest.raises(RecordError, match="is damaged"):
        registry.export(version, tmp_path / "x")
    assert not (tmp_path / "x").exists()
    # Another version with the same content brings it back.
    files = small.files(small.W + np.float32(3))
    later = content.write(
        tmp_path / "later", replace(small.manifest(files), counter=4), files
    )
    registry.add(later)
    assert registry.export(version, tmp_path / "y").sha256 == package.sha256


def test_a_package_that_changed_is_not_kept(registry, tmp_path):
    package = packed(tmp_path, 3)
    (package.folder / "weights.bin").write_bytes(bytes(84))
    with pytest.raises(PackageError):
        registry.add(package)
    assert registry.names() == []
    sound(registry.folder)


def test_a_newer_registry_is_left_alone(tmp_path):
    Registry(tmp_path, create=True).close()
    database = sqlite3.connect(tmp_path / DATABASE_FILE)
    database.execute("PRAGMA user_version = 9")
    database.close()
    with pytest.raises(RecordError, match="update fedlearn"):
        Registry(tmp_path)
    (tmp_path / DATABASE_FILE).write_bytes(b"no database at all" * 100)
    with pytest.raises(RecordError, match="cannot be used"):
        Registry(tmp_path)


def run(code: str, *words: str) -> str:
    """Return what a process of its own prints."""
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *words],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    ).stdout


KILLED = """
import itertools, json, os, signal, sys
from pathlib import Path
from fedlearn.package import content
from fedlearn.release.registry import Registry
from fedlearn.system import files

folder, first, second = map(Path, sys.argv[1:])
packages = [content.read(first), content.read(second)]

def dying(step):
    '''Kill this process before its operation number ``step``.'''
    numbers = itertools.count()
    def counted(operation):
        def call(*words, **options):
            if next(numbers) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return operation(*words, **options)
        return call
    for name in ("open", "replace", "fsync", "unlink", "mkdir"):
        setattr(os, name, counted(getattr(os, name)))
    Registry._do = counted(Registry._do)

def work(registry):
    for package in packages:
        registry.add(package)
        registry.promote("small")
    registry.rollback("small")

statuses = []
for step in itertools.count():
    room = folder / str(step)
    child = os.fork()
    if not child:
        dying(step)
        with Registry(room, create=True) as registry:
            work(registry)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    statuses.append(status)
    if status == 0:
        break
print(json.dumps(statuses))
"""


@pytest.fixture
def memory(tmp_path):
    """Return a folder in memory, where there is one: a kill needs no disk, and syncs wait."""
    if not Path("/dev/shm").is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        yield Path(name)


def test_a_kill_at_any_point_leaves_a_sound_registry(memory):
    first = packed(memory, 1)
    second = packed(memory, 2)
    folder = memory / "registries"
    folder.mkdir()
    statuses = json.loads(
        run(KILLED, str(folder), str(first.folder), str(second.folder))
    )
    # Killed at every step but the last, after which there is nothing left to kill.
    assert len(statuses) > 60
    assert set(statuses[:-1]) == {9}
    ends = set()
    for room in folder.iterdir():
        if not (room / DATABASE_FILE).exists():
            continue
        # Whatever was done goes on from where it stood.
        with Registry(room, create=True) as registry:
            ends.add(json.dumps(registry.aliases("small")))
            for package in (first, second):
                registry.add(package)
        sound(room)
    # Nothing; each candidate; each stable one, the first of which comes back.
    assert len(ends) == 5, ends


WRITER = """
import sys
from pathlib import Path
from fedlearn.package import content
from fedlearn.release.registry import Registry

for word in sys.argv[2:]:
    with Registry(Path(sys.argv[1]), create=True) as registry:
        registry.add(content.read(Path(word)))
        registry.promote(Path(word).name.split("-")[0])
"""


def test_writers_take_turns(tmp_path):
    """Three processes make one registry, each of its own model, at the same time."""
    names = ("ann", "bob", "cy")
    folders = {
        name: [str(packed(tmp_path, counter, name).folder) for counter in (1, 2, 3)]
        for name in names
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "registry"), *folders[name]],
            cwd=ROOT,
        )
        for name in names
    ]
    assert [process.wait() for process in processes] == [0, 0, 0]
    with Registry(tmp_path / "registry") as registry:
        assert registry.names() == list(names)
        for name in names:
            assert registry.aliases(name) == {STABLE: 3, PREVIOUS: 2}
            assert [version.counter for version in registry.versions(name)] == [3, 2, 1]
    sound(tmp_path / "registry")


def test_of_two_releases_with_one_counter_the_first_is_kept(registry, tmp_path):
    first = packed(tmp_path, 3)
    other = content.write(
        tmp_path / "other", replace(small.manifest(), counter=3), small.files()
    )
    registry.add(first)
    with Registry(registry.folder) as second:
        with pytest.raises(UserError, match="already"):
            second.add(other)
        assert second.find(Reference("small", alias=CANDIDATE)).sha256 == first.sha256
