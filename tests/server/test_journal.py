"""The journal: what was acknowledged is there after any crash, failure or damage, or its
absence is told.
"""

import errno
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from fedlearn.errors import ConfigError, RecordError
from fedlearn.server import journal
from fedlearn.server.journal import Journal
from fedlearn.server.quota import quota_bytes
from fedlearn.system.failpoints import VARIABLE, Failpoints, reach
from tests.server.journal_child import data

ROOT = Path(__file__).parents[2]


def append(log, *keys):
    """Append a record per key and wait for all of them."""
    for future in [log.append({"key": key}, data(key)) for key in keys]:
        future.result(60)


def newest(log, key):
    entry = log.find(key)
    assert entry is not None
    return log.read(entry)


def held(folder):
    """Open a journal and return its keys in order, each record's data compared with what
    was appended.
    """
    with closing(Journal(folder)) as log:
        found = list(log.records())
        for meta, entry in found:
            assert log.read(entry) == data(meta["key"])
            assert log.find(meta["key"]) == entry
        return [meta["key"] for meta, _ in found]


def segments(folder):
    return sorted(folder.glob("*.log"))


def grouped(folder, groups):
    """Write groups of small records, and return the file's size after each group."""
    sizes = []
    with closing(Journal(folder)) as log:
        for keys in groups:
            with log._changed:  # the thread that writes sees the group when it is whole
                futures = [log.append({"key": key}, data(key)[:40]) for key in keys]
            for future in futures:
                future.result(60)
            sizes.append(segments(folder)[-1].stat().st_size)
    return sizes


def short(folder):
    """Like `held`, for records made by `grouped`."""
    with closing(Journal(folder)) as log:
        for meta, entry in log.records():
            assert log.read(entry) == data(meta["key"])[:40]
        return [meta["key"] for meta, _ in log.records()]


class Gate:
    """Holds every fdatasync until ``go`` is set; ``error`` fails it then."""

    def __init__(self, monkeypatch, error=None):
        self.syncing, self.go, self.syncs, self.error, self.real = (
            threading.Event(),
            threading.Event(),
            0,
            error,
            os.fdatasync,
        )
        monkeypatch.setattr(os, "fdatasync", self)

    def __call__(self, file):
        self.syncs += 1
        self.syncing.set()
        assert self.go.wait(60)
        if self.error:
            raise OSError(self.error, os.strerror(self.error))
        self.real(file)


# What it does on good days.


def test_records_come_back_in_order_and_the_newest_of_a_key_is_found(tmp_path):
    with closing(Journal(tmp_path / "journal")) as log:
        assert log.find("a") is None and list(log.records()) == []
        log.append({"key": "a", "round": 1}, b"one")
        log.append({"event": "open"})
        log.append({"key": "b", "name": "ä"}, bytes(5000))
        log.append({"key": "a", "round": 2}, b"two").result(60)
        again = [(meta, log.read(entry)) for meta, entry in log.records()]
        assert newest(log, "a") == b"two"
    expected = [
        ({"key": "a", "round": 1}, b"one"),
        ({"event": "open"}, b""),
        ({"key": "b", "name": "ä"}, bytes(5000)),
    ]
    assert again == [*expected, ({"key": "a", "round": 2}, b"two")]
    with closing(Journal(tmp_path / "journal")) as log:
        assert [(meta, log.read(entry)) for meta, entry in log.records()] == again
        assert newest(log, "a") == b"two"


def test_each_opening_that_writes_begins_a_segment(tmp_path):
    for keys in ("ab", "", "c", "d"):
        with closing(Journal(tmp_path)) as log:
            append(log, *keys)
    assert [f.name for f in segments(tmp_path)] == [
        "00000001.log",
        "00000002.log",
        "00000003.log",
    ]
    assert held(tmp_path) == ["a", "b", "c", "d"]


def test_a_segment_that_has_grown_too_big_is_followed_by_another(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "SEGMENT_BYTES", 3000)
    keys = [f"k{i}" for i in range(30)]
    with closing(Journal(tmp_path)) as log:
        for key in keys:
            append(log, key)
    sizes = [f.stat().st_size for f in segments(tmp_path)]
    assert len(sizes) > 5 and all(3000 < size < 3000 + 3200 for size in sizes[:-1])
    assert held(tmp_path) == keys


def test_records_are_found_only_when_they_are_on_disk(tmp_path, monkeypatch):
    gate = Gate(monkeypatch)
    with closing(Journal(tmp_path)) as log:
        future = log.append({"key": "a"}, data("a"))
        assert gate.syncing.wait(60)
        assert log.find("a") is None and list(log.records()) == [] and not future.done()
        gate.go.set()
        future.result(60)
        assert newest(log, "a") == data("a")


def test_a_new_segment_is_on_disk_with_its_name_before_its_first_record(
    tmp_path, monkeypatch
):
    calls = []

    def traced(name, real):
        def call(file, *arguments):
            calls.append(
                f"{name} folder" if stat.S_ISDIR(os.fstat(file).st_mode) else name
            )
            return real(file, *arguments)

        return call

    with closing(Journal(tmp_path)) as log:
        for name in ("writev", "fsync", "fdatasync"):
            monkeypatch.setattr(os, name, traced(name, getattr(os, name)))
        append(log, "a")
        append(log, "b")
    assert calls == [
        "writev",
        "fsync",
        "fsync folder",
        "writev",
        "fdatasync",
        "writev",
        "fdatasync",
    ]


def test_what_waits_during_a_sync_is_synced_together(tmp_path, monkeypatch):
    gate = Gate(monkeypatch)
    with closing(Journal(tmp_path)) as log:
        futures = [log.append({"key": "first"}, data("first"))]
        assert gate.syncing.wait(60)
        futures += [
            log.append({"key": f"k{i}"}, data(f"k{i}")) for i in range(2000)
        ]  # more than one system call takes
        gate.go.set()
        for future in futures:
            future.result(60)
    assert gate.syncs == 2
    assert held(tmp_path) == ["first", *(f"k{i}" for i in range(2000))]


def test_threads_append_side_by_side(tmp_path):
    with closing(Journal(tmp_path)) as log:

        def work(name):
            for i in range(50):
                append(log, f"{name}.{i}")

        threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    keys = held(tmp_path)
    assert len(keys) == 400
    for name in range(8):
        assert [k for k in keys if k.startswith(f"{name}.")] == [
            f"{name}.{i}" for i in range(50)
        ]


def test_memory_is_bounded_by_the_queue(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "QUEUE_BYTES", 1000)
    seen, fdatasync = [], os.fdatasync
    with closing(Journal(tmp_path)) as log:

        def sync(file):
            with log._changed:
                seen.append(log._queued_bytes)
            fdatasync(file)

        monkeypatch.setattr(os, "fdatasync", sync)
        futures = [log.append({"key": str(i)}, bytes(300)) for i in range(100)]
        futures.append(
            log.append({}, bytes(5000))
        )  # larger than the whole queue: goes alone
        for future in futures:
            future.result(60)
    assert 5000 < max(seen) < 5100 and max(seen[:-1]) <= 1000


def test_closing_writes_what_waits_and_takes_no_more(tmp_path):
    log = Journal(tmp_path)
    futures = [log.append({"key": str(i)}, data(str(i))) for i in range(100)]
    log.close()
    log.close()
    assert all(future.done() and future.exception() is None for future in futures)
    assert "is closed" in str(log.append({"key": "late"}).exception(60))
    assert newest(log, "5") == data("5")
    assert held(tmp_path) == [str(i) for i in range(100)]


def test_one_journal_at_a_time_owns_the_folder(tmp_path):
    with (
        closing(Journal(tmp_path)),
        pytest.raises(RecordError, match="another process has the journal"),
    ):
        Journal(tmp_path)
    Journal(tmp_path).close()


@pytest.mark.filterwarnings(
    "ignore:.*fork:DeprecationWarning"
)  # Python 3.12 warns of it beside threads
def test_a_forked_child_does_not_keep_the_folder(tmp_path):
    log = Journal(tmp_path)
    started, start = os.pipe()
    end, ended = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ended)
        os.write(start, b"x")
        os.read(end, 1)  # lives until its parent closes the pipe
        os._exit(0)
    os.read(started, 1)
    log.close()
    Journal(tmp_path).close()
    os.close(ended)
    os.waitpid(child, 0)
    for file in (started, start, end):
        os.close(file)


def test_what_a_record_cannot_hold_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "RECORD_BYTES", 100)
    with closing(Journal(tmp_path)) as log:
        with pytest.raises(TypeError):
            log.append({"key": b"x"})
        with pytest.raises(ValueError, match="JSON compliant"):
            log.append({"loss": float("nan")})
        with pytest.raises(ValueError, match="101 of data"):
            log.append({}, bytes(101))
        log.append({}, bytes(100)).result(60)


def test_a_folder_that_cannot_be_used_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match="cannot open"):
        Journal(tmp_path / "file" / "journal")


# Kills.


def child(folder, first, **environment):
    command = [
        sys.executable,
        "-m",
        "tests.server.journal_child",
        str(folder),
        str(first),
    ]
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("point", journal.POINTS)
def test_killed_at_every_point_all_that_was_acknowledged_is_there_once(tmp_path, point):
    acked, first = list[str](), 0
    for time in (1, 2, 3) if point != "journal.recovery" else (1, 1, 1):
        if point == "journal.recovery":  # a torn tail to recover from
            torn = child(tmp_path, first, **{VARIABLE: "journal.half-record=kill@9"})
            acked, first = acked + torn.stdout.split(), first + 1000
        ended = child(tmp_path, first, **{VARIABLE: f"{point}=kill@{time}"})
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        acked, first = acked + ended.stdout.split(), first + 1000
        keys = held(tmp_path)
        assert len(keys) == len(set(keys)) and set(acked) <= set(keys)
        assert keys == sorted(keys, key=lambda key: int(key[1:]))
    ended = child(tmp_path, first)
    assert ended.returncode == 0 and len(ended.stdout.split()) > 100
    assert set(acked) | set(ended.stdout.split()) <= set(held(tmp_path))


# Failing disks.


class Fails:
    """A disk whose ``time``-th call of some functions fails; a write leaves half of its
    bytes first.
    """

    def __init__(self, monkeypatch, time, *names):
        self.time, self.calls, self.failed = time, 0, []
        for name in names:
            monkeypatch.setattr(os, name, self.wrapped(name, getattr(os, name)))

    def wrapped(self, name, real):
        def call(file, *arguments):
            self.calls += 1
            if self.calls == self.time:
                self.failed.append(name)
                if name == "writev":
                    whole = b"".join(arguments[0])
                    real(file, [whole[: len(whole) // 2]])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(file, *arguments)

        return call


def session(folder):
    """Append until something fails; return the keys that were acknowledged, and the errors."""
    acked, errors = [], []
    with closing(Journal(folder)) as log:
        for first in range(0, 24, 3):
            futures = {
                key: log.append({"key": key}, data(key))
                for key in (f"k{first + i}" for i in range(3))
            }
            for key, future in futures.items():
                errors.append(future.exception(60))
                acked += [key] if errors[-1] is None else []
        if any(errors):
            assert errors[-1] is next(filter(None, errors))
            assert log.append({}).exception(60) is errors[-1]
        for key in acked:  # what was acknowledged can still be read
            assert newest(log, key) == data(key)
    return acked, [error for error in errors if error]


@pytest.mark.parametrize("names", [("writev",), ("fdatasync", "fsync"), ("open",)])
def test_whichever_call_fails_nothing_acknowledged_is_lost(
    tmp_path, monkeypatch, names
):
    monkeypatch.setattr(journal, "SEGMENT_BYTES", 8000)
    time, ended = 0, False
    while not ended:
        time += 1
        folder = tmp_path / str(time)
        Journal(folder).close()
        with monkeypatch.context() as patch:
            disk = Fails(patch, time, *names)
            try:
                acked, errors = session(folder)
            except RecordError as error:  # it failed while the journal was opened
                acked, errors = [], [error]
        ended = not disk.failed
        assert bool(errors) != ended
        assert all("No space left" in str(error) for error in errors)
        assert set(acked) <= set(held(folder))
        assert acked == held(folder)[: len(acked)]
        with closing(Journal(folder)) as log:
            append(log, "more")
        assert "more" in held(folder)
    assert time > {"writev": 10, "fdatasync": 12, "open": 6}[names[0]]
    assert len(acked) == 24


def test_whichever_call_of_a_recovery_fails_the_next_one_mends_it(
    tmp_path, monkeypatch
):
    sizes = grouped(tmp_path, ["ab", "cd", "ef"])
    whole = segments(tmp_path)[0].read_bytes()
    time, ended, told = 0, False, list[str]()
    while not ended:
        time += 1
        segments(tmp_path)[0].write_bytes(whole[: sizes[-1] - 5])
        with monkeypatch.context() as patch:
            disk = Fails(patch, time, "ftruncate", "pwrite", "pread", "fsync")
            try:
                Journal(tmp_path).close()
            except RecordError as error:
                told.append(str(error))
        ended = not disk.failed
        assert short(tmp_path) == list("abcde")
    assert (
        time == 6
    )  # cut, read, write again, sync, sync the folder; and once without a failure
    assert len(told) == 5 and all("No space left" in text for text in told)


def test_what_was_perhaps_never_synced_is_written_and_synced_before_it_counts(
    tmp_path, monkeypatch
):
    sizes = grouped(tmp_path, ["ab", "cd"])
    calls, pwrite, fsync = list[Any](), os.pwrite, os.fsync

    def write(file, part, at):
        calls.append((at, at + len(part)))
        return pwrite(file, part, at)

    def sync(file):
        calls.append("sync")
        fsync(file)

    monkeypatch.setattr(os, "pwrite", write)
    monkeypatch.setattr(os, "fsync", sync)
    Journal(tmp_path).close()
    assert calls == [
        (sizes[0], sizes[1]),
        "sync",
        "sync",
    ]  # the last group, its file, the folder


def test_short_writes_are_carried_on(tmp_path, monkeypatch):
    real, random_ = os.writev, random.Random(1)

    def few(file, parts):
        whole = b"".join(parts)
        return real(file, [whole[: random_.randint(1, 2000)]])

    monkeypatch.setattr(os, "writev", few)
    with closing(Journal(tmp_path)) as log:
        append(log, *(f"k{i}" for i in range(50)))
    assert held(tmp_path) == [f"k{i}" for i in range(50)]


def test_a_failure_wakes_those_who_wait_for_room(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "QUEUE_BYTES", 1000)
    gate, errors = Gate(monkeypatch, errno.EIO), list[BaseException | None]()
    with closing(Journal(tmp_path)) as log:

        def work():
            futures = [log.append({}, bytes(400)) for _ in range(20)]
            errors.extend(future.exception(60) for future in futures)

        thread = threading.Thread(target=work)
        thread.start()
        gate.go.set()
        thread.join(60)
        assert len(errors) == 20 and all(
            "Input/output error" in str(error) for error in errors
        )


def test_an_error_that_is_not_the_disks_leaves_nobody_waiting(tmp_path, monkeypatch):
    def full(*_):
        raise MemoryError

    with closing(Journal(tmp_path)) as log:
        monkeypatch.setattr(os, "writev", full)
        assert "MemoryError" in str(log.append({}).exception(60))


# Damage.


def test_cut_at_every_byte_of_the_last_records_the_whole_ones_before_are_there(
    tmp_path,
):
    grouped(tmp_path, ["a", "bc", "d", "ef"])
    file = segments(tmp_path)[0]
    whole = file.read_bytes()
    with closing(Journal(tmp_path)) as log:
        ends = [entry.offset + entry.length for _, entry in log.records()]
    assert ends[-1] == len(whole)
    for size in range(ends[2], len(whole)):
        file.write_bytes(whole[:size])
        assert short(tmp_path) == list("abcdef")[: sum(end <= size for end in ends)]
        assert file.stat().st_size == max(end for end in ends if end <= size)
    for size in range(len(whole) - ends[-1], 21):  # a crash while the segment was made
        file.write_bytes(whole[:size])
        assert short(tmp_path) == []


@pytest.mark.parametrize("last", [False, True])
def test_any_damaged_byte_is_an_error_or_cuts_what_no_later_group_follows(
    tmp_path, last
):
    sizes = grouped(tmp_path, ["a", "bc", "def"])
    file = segments(tmp_path)[0]
    whole = file.read_bytes()
    if not last:
        with closing(Journal(tmp_path)) as log:
            append(log, "in the next segment")
    with closing(Journal(tmp_path)) as log:
        ends = [entry.offset + entry.length for _, entry in log.records()][:6]
    for at in range(len(whole)):
        file.write_bytes(
            whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :]
        )
        if not last or at < sizes[1]:
            begin = max([20, *(end for end in ends if end <= at)]) if at >= 20 else 0
            with pytest.raises(
                RecordError, match=rf"00000001\.log is damaged at byte {begin},"
            ):
                Journal(tmp_path)
        else:
            assert short(tmp_path) == list("abcdef")[: sum(end <= at for end in ends)]


def test_a_power_cut_may_keep_any_part_of_the_last_group(tmp_path):
    groups = ["a", "bcd", "ef", "ghijk", "l", "mnop"]
    sizes = grouped(tmp_path, groups)
    file, random_, kept = segments(tmp_path)[0], random.Random(5), set()
    whole = file.read_bytes()
    for number in range(1, len(groups)):
        acked = list("".join(groups[:number]))
        start, end = sizes[number - 1], sizes[number]
        for _ in range(60):
            tail = bytearray(whole[start : random_.randint(start, end)])
            for at in range(0, len(tail), 16):
                if random_.random() < 0.2:
                    tail[at : at + 16] = bytes(len(tail[at : at + 16]))
            file.write_bytes(whole[:start] + tail)
            keys = short(tmp_path)
            assert (
                keys == list("abcdefghijklmnop")[: len(keys)]
                and keys[: len(acked)] == acked
            )
            kept.add(len(keys) - len(acked))
    assert kept >= {0, 1, 2}  # some lost all of the group, some kept a part


def test_a_payload_cannot_pose_as_a_record(tmp_path):
    grouped(tmp_path / "other", ["a", "b"])
    records = segments(tmp_path / "other")[0].read_bytes()[20:]
    with closing(Journal(tmp_path / "journal")) as log:
        log.append({"key": "evil"}, records * 3).result(60)
    file = segments(tmp_path / "journal")[0]
    file.write_bytes(file.read_bytes()[:-1])
    assert short(tmp_path / "journal") == []


def test_a_missing_segment_is_an_error(tmp_path):
    for key in "abc":
        with closing(Journal(tmp_path)) as log:
            append(log, key)
    segments(tmp_path)[1].rename(tmp_path / "elsewhere")
    with pytest.raises(RecordError, match=r"00000002\.log is missing"):
        Journal(tmp_path)
    (tmp_path / "elsewhere").rename(tmp_path / "00000002.log")
    assert held(tmp_path) == ["a", "b", "c"]


def test_data_that_changed_after_opening_is_not_given_out(tmp_path):
    with closing(Journal(tmp_path)) as log:
        log.append({"key": "a"}, bytes(100)).result(60)
        file = segments(tmp_path)[0]
        file.write_bytes(file.read_bytes()[:-1] + b"x")
        with pytest.raises(RecordError, match="is damaged"):
            newest(log, "a")
        file.write_bytes(file.read_bytes()[:-1])
        with pytest.raises(RecordError, match="is damaged"):
            newest(log, "a")
        file.write_bytes(file.read_bytes().replace(b'"key"', b'"kex"'))
        with pytest.raises(RecordError, match="is damaged at byte 20"):
            list(log.records())


# Failpoints.


def test_a_failpoint_fires_at_its_time_and_only_then():
    points = Failpoints("disk=error@2, room=full")
    points.reach("disk")
    with pytest.raises(OSError) as failed:
        points.reach("disk")
    assert failed.value.errno == errno.EIO
    points.reach("disk")
    with pytest.raises(OSError) as failed:
        points.reach("room")
    assert failed.value.errno == errno.ENOSPC
    points.reach("another")
    assert points.armed("room") and not points.armed("another")


@pytest.mark.parametrize(
    "text", ["a", "a=", "=kill", "a=kill@0", "a=kill@x", "a=kill@", "a=b@1"]
)
def test_a_failpoint_that_is_mistyped_is_told(text):
    with pytest.raises(ConfigError, match="is not point=kill@N"):
        Failpoints(text)


def test_without_the_variable_a_point_is_an_empty_function():
    assert VARIABLE not in os.environ and reach.__name__ == "_nothing"


def test_a_point_that_fails_kills_the_journal_not_the_process(tmp_path):
    ended = child(tmp_path, 0, **{VARIABLE: "journal.after-sync=full@4"})
    assert (
        ended.returncode == 1
        and "RecordError: cannot write" in ended.stderr
        and "No space left" in ended.stderr
    )
    assert (
        set(ended.stdout.split()) <= set(held(tmp_path))
        and len(ended.stdout.split()) > 2
    )


# A quota.


def test_beyond_its_quota_nothing_is_acknowledged_and_a_larger_one_goes_on(tmp_path):
    with closing(Journal(tmp_path, 5000)) as log:
        acked = []
        for key in ("a", "b", "c", "d"):
            error = log.append({"key": key}, bytes(2000)).exception(60)
            if error is None:
                acked.append(key)
        assert acked == ["a", "b"]
        assert "larger --journal-megabytes" in str(error)
        assert log.append({}).exception(60) is error
    with closing(Journal(tmp_path, 5000)) as log:
        assert [meta["key"] for meta, _ in log.records()] == acked
        assert isinstance(log.append({}, bytes(2000)).exception(60), RecordError)
    # A refusal leaves no empty segment behind.
    assert len(segments(tmp_path)) == 1
    with closing(Journal(tmp_path, 9000)) as log:
        log.append({"key": "c"}, bytes(2000)).result(60)
        assert [meta["key"] for meta, _ in log.records()] == ["a", "b", "c"]


def test_a_quota_is_what_the_user_says_or_of_what_is_free(tmp_path, monkeypatch):
    folder = tmp_path / "run" / "journal"
    assert quota_bytes(folder, 3) == 3_000_000
    free = shutil.disk_usage(tmp_path)._replace(free=10_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: free)
    assert quota_bytes(folder, None) == 9000
    folder.mkdir(parents=True)
    (folder / "00000001.log").write_bytes(bytes(700))
    assert quota_bytes(folder, None) == 9700
