"""A device's slots on a real disk: killed at any moment, torn and damaged in any way."""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from fedlearn.clients.device import record_file
from fedlearn.clients.device.slots import InstallDisk
from fedlearn.clients.installed import (
    InstallRecord,
    OnTrial,
    SlotContent,
    WatchTerms,
)
from fedlearn.errors import PackageError, RecordError
from fedlearn.exchange.releases import (
    InstallFailure,
    ReleaseId,
    WatchFigures,
    WatchLimits,
)
from fedlearn.package import canonical, content
from fedlearn.system import failpoints
from tests.clients.device import releases

ROOT = Path(__file__).parents[3]
ONE = ReleaseId("model", 1, "1" * 64)
TERMS = WatchTerms(60.0, 20.0, 3, WatchLimits(10, errors=0.05), floor=2)
RECORD = InstallRecord(
    "disk",
    5,
    "b",
    {"a": SlotContent(ONE, True), "b": SlotContent(replace(ONE, counter=2))},
    OnTrial(7, "a", TERMS, 2, 12.5, True),
    1,
    InstallFailure(6, ONE, "its golden outputs differ"),
    WatchFigures(100, 0.01, 8.0, 0.1, 0.2),
)


@pytest.mark.timeout(120)
def test_whatever_kills_the_process_the_record_names_what_is_whole():
    command = [sys.executable, "-m", "tests.clients.device.install_kills", "48"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    counts = {line.split(maxsplit=1)[1] for line in ended.stdout.splitlines()}
    assert counts >= {*failpoints.INSTALLATION, "a random moment", "on trial"}


# The record's file


@pytest.mark.parametrize("record", [RECORD, InstallRecord("new")])
def test_a_record_is_read_as_it_was_written(record, tmp_path):
    disk = InstallDisk(tmp_path)
    disk.write(record)
    assert InstallDisk(tmp_path).read() == record


def test_a_record_of_an_agent_before_disagreement_is_read():
    value = json.loads(record_file.dumps(RECORD))["record"]
    del value["figures"]["disagreement"]
    del value["trial"]["terms"]["limits"]["disagreement"]
    digest = hashlib.sha256(canonical.dumps(value)).hexdigest()
    data = canonical.dumps({"format": 1, "record": value, "sha256": digest})
    assert record_file.loads(data) == RECORD


def test_every_shortened_or_flipped_record_is_refused():
    data = record_file.dumps(RECORD)
    for end in range(len(data)):
        with pytest.raises(PackageError):
            record_file.loads(data[:end])
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 1
        with pytest.raises(PackageError):
            record_file.loads(bytes(flipped))


def test_a_damaged_record_is_set_aside_and_the_device_begins_anew(tmp_path):
    disk = InstallDisk(tmp_path)
    disk.write(RECORD)
    (tmp_path / "record.json").write_bytes(b'{"format":1,')
    record = disk.read()
    assert record.instance != "disk" and record.active is None
    assert (tmp_path / "record.damaged.json").read_bytes() == b'{"format":1,'
    assert InstallDisk(tmp_path).read().contents == {}


def test_a_record_of_a_later_fedlearn_names_itself():
    data = record_file.dumps(RECORD).replace(b'"format":1', b'"format":2')
    with pytest.raises(PackageError, match="format 2, and this fedlearn reads 1"):
        record_file.loads(data)


def test_a_folder_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match="cannot be used"):
        InstallDisk(tmp_path / "file" / "device")


# The slots


@pytest.fixture
def package(tmp_path):
    return releases.write(tmp_path / "shelf", 3)


@pytest.fixture
def disk(tmp_path):
    return InstallDisk(tmp_path / "device")


def test_a_slot_holds_what_was_staged_until_a_bit_of_it_changes(disk, package):
    name = releases.name_of(package)
    assert "is no folder" in disk.objection("a", name)
    disk.stage(package, "a", name)
    assert disk.objection("a", name) is None
    other = replace(name, digest="0" * 64)
    assert "holds another release than small 3" in disk.objection("a", other)
    record = InstallRecord("disk", contents={"a": SlotContent(name)})
    assert disk.intact(record) == {"a"}
    weights = disk.place("a") / "weights.bin"
    data = bytearray(weights.read_bytes())
    data[5] ^= 4
    weights.write_bytes(data)
    assert "'weights.bin' has another SHA-256" in disk.objection("a", name)
    assert disk.intact(record) == set()


def test_a_release_that_is_not_what_was_named_never_becomes_a_slot(disk, package):
    name = replace(releases.name_of(package), digest="0" * 64)
    with pytest.raises(PackageError, match="slot a got another release"):
        disk.stage(package, "a", name)
    assert not disk.place("a").exists()


def test_leftovers_of_a_killed_process_are_swept(disk, package):
    name = releases.name_of(package)
    disk.stage(package, "a", name)
    for leftover in (".a.staging", ".b.old"):
        (disk.folder / leftover).mkdir()
        (disk.folder / leftover / "weights.bin").write_bytes(b"half")
    (disk.folder / ".record.json.part").write_bytes(b"half")
    InstallDisk(disk.folder).sweep()
    assert sorted(os.listdir(disk.folder)) == ["a", "incoming"]
    assert content.read(disk.place("a")).sha256 == package.sha256


def test_a_full_disk_leaves_the_other_slot_and_the_record(disk, package, monkeypatch):
    name = releases.name_of(package)
    disk.stage(package, "a", name)
    disk.write(
        replace(RECORD, contents={"a": SlotContent(name)}, active="a", trial=None)
    )
    before = disk.read()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        disk.stage(package, "b", name)
    with pytest.raises(OSError, match="No space left"):
        disk.write(replace(before, sequence=9))
    monkeypatch.undo()
    assert InstallDisk(disk.folder).read() == before
    assert disk.intact(before) == {"a"}
