"""An outbox keeps what it has promised: over kills, torn writes, full disks and quotas."""

import json
import os
import subprocess
import sys

import pytest

from fedlearn.clients.messages import outbox as module
from fedlearn.clients.messages.outbox_segments import POINTS
from fedlearn.errors import RecordError, RunError
from fedlearn.system import failpoints


def looked(folder):
    seen = module.look(folder)
    assert seen is not None
    return seen


class Outbox(module.Outbox):
    """One that ends with its test."""

    opened: list = []

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.opened.append(self)

    def close(self):
        if self in self.opened:
            self.opened.remove(self)
            super().close()


@pytest.fixture(autouse=True)
def _closed():
    yield
    for outbox in [*Outbox.opened]:
        outbox.close()


def put(outbox, *numbers):
    outbox.put([(f"key-{n}", json.dumps({"n": n})) for n in numbers])


def bodies(outbox, after=0):
    return [json.loads(message.body)["n"] for message in outbox.waiting(after, 1000)]


def reopened(outbox):
    outbox.close()
    return Outbox(outbox.folder)


def test_messages_wait_until_they_are_settled(tmp_path):
    outbox = Outbox(tmp_path / "o")
    put(outbox, 1, 2, 3)
    put(outbox, 4)
    assert bodies(outbox) == [1, 2, 3, 4] and bodies(outbox, after=2) == [3, 4]
    assert outbox.oldest == 1
    assert outbox.settle([(1, 2), (4, 9)]) == 3
    # What is settled twice, or never was, changes nothing.
    assert outbox.settle([(1, 1), (70, 80)]) == 0
    assert bodies(outbox) == [3] and outbox.count == 1 and outbox.oldest == 3
    name = outbox.id
    outbox = reopened(outbox)
    assert outbox.id == name and bodies(outbox) == [3]
    outbox.settle([(3, 3)])
    outbox = reopened(outbox)
    put(outbox, 5)
    # Numbers go on, though nothing waited.
    assert [message.number for message in outbox.waiting()] == [5]
    assert outbox.oldest == 5


def test_the_last_keys_outlive_that_they_are_settled(tmp_path):
    outbox = Outbox(tmp_path / "o")
    assert outbox.last_keys() == set()
    put(outbox, 1, 2)
    outbox.settle([(1, 2)])
    assert reopened(outbox).last_keys() == {"key-1", "key-2"}


def test_segments_go_when_all_in_them_is_settled(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SEGMENT_BYTES", 100)
    outbox = Outbox(tmp_path / "o")
    for number in range(1, 31):
        put(outbox, number)
    files = sorted(path.name for path in outbox.folder.glob("*.log"))
    assert len(files) > 5
    outbox.settle([(1, 30)])
    assert [path.name for path in outbox.folder.glob("*.log")] == files[-1:]
    assert len(list(outbox.folder.glob("*.settled"))) == 1
    outbox = reopened(outbox)
    assert outbox.count == 0 and "key-30" in outbox.last_keys()


def test_a_torn_end_is_cut_off(tmp_path):
    outbox = Outbox(tmp_path / "o")
    put(outbox, 1, 2)
    path = next(outbox.folder.glob("*.log"))
    outbox.close()
    for torn in (b"12345678 [3,", b'00000000 [3,"k","{}"]\n', b"\0" * 50):
        data = path.read_bytes()
        path.write_bytes(data + torn)
        outbox = Outbox(tmp_path / "o")
        assert bodies(outbox) == [1, 2] and outbox.damaged == 0
        assert path.read_bytes() == data
        outbox.close()


def test_a_damaged_message_is_counted_and_the_others_are_there(tmp_path):
    outbox = Outbox(tmp_path / "o")
    put(outbox, 1, 2, 3)
    outbox.close()
    path = next(outbox.folder.glob("*.log"))
    path.write_bytes(path.read_bytes().replace(b'\\"n\\": 2', b'\\"n\\": 7'))
    assert looked(tmp_path / "o").damaged == 1
    outbox = Outbox(tmp_path / "o")
    assert bodies(outbox) == [1, 3] and outbox.damaged == 1


def test_a_lost_note_of_what_is_settled_sends_again(tmp_path):
    outbox = Outbox(tmp_path / "o")
    put(outbox, 1, 2)
    outbox.settle([(1, 1)])
    outbox.close()
    note = next(outbox.folder.glob("*.settled"))
    note.write_text("1 1\nx y\n2 ")
    outbox = Outbox(tmp_path / "o")
    assert bodies(outbox) == [2]
    outbox.close()
    note.unlink()
    outbox = Outbox(tmp_path / "o")
    assert bodies(outbox) == [1, 2]


def test_beyond_its_limit_the_oldest_go_and_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SEGMENT_BYTES", 1000)
    monkeypatch.setattr(module, "LEAST_BYTES", 0)
    outbox = Outbox(tmp_path / "o", most_bytes=5000)
    for number in range(1, 201):
        put(outbox, number)
    assert outbox.bytes <= 5000
    assert outbox.count + outbox.dropped == 200
    assert bodies(outbox) == list(range(outbox.dropped + 1, 201))
    dropped = outbox.dropped
    assert looked(outbox.folder).dropped == dropped
    assert reopened(outbox).dropped == dropped


def test_a_group_that_can_never_fit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LEAST_BYTES", 0)
    outbox = Outbox(tmp_path / "o", most_bytes=1000)
    with pytest.raises(RunError, match="larger --outbox-mb"):
        outbox.put([("k", json.dumps({"x": "y" * 600}))])
    put(outbox, 1)
    assert bodies(outbox) == [1]


def test_one_process_has_it(tmp_path):
    first = Outbox(tmp_path / "o")
    with pytest.raises(RunError, match="another process has"):
        Outbox(tmp_path / "o")
    # Who only looks needs no lock.
    put(first, 1)
    seen = looked(tmp_path / "o")
    assert seen.count == 1 and seen.bytes == first.bytes
    assert module.look(tmp_path) is None


def test_damaged_facts_are_one_line(tmp_path):
    Outbox(tmp_path / "o").close()
    (tmp_path / "o" / "outbox.json").write_text("{}")
    with pytest.raises(RecordError, match=r"outbox\.json' is damaged; remove"):
        Outbox(tmp_path / "o")
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match="file"):
        Outbox(tmp_path / "file")


CHILD = """
import sys
from pathlib import Path
from fedlearn.clients.messages.outbox import Outbox
outbox = Outbox(Path(sys.argv[1]))
for number in range(1, 6):
    outbox.put([(f"key-{number}", '{"n": %d}' % number)])
    print(number, flush=True)
"""


@pytest.mark.parametrize("point", POINTS)
def test_what_was_promised_outlives_a_kill(tmp_path, point):
    environment = {**os.environ, failpoints.VARIABLE: f"{point}=kill@3"}
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path / "o")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == -9
    promised = [int(line) for line in child.stdout.split()]
    assert promised == [1, 2]
    waiting = bodies(Outbox(tmp_path / "o"))
    assert waiting[:2] == promised and waiting in ([1, 2], [1, 2, 3])


@pytest.mark.parametrize("point", ["outbox.before-write", "outbox.before-sync"])
def test_a_disk_that_refuses_keeps_nothing_of_a_group(tmp_path, point):
    code = CHILD.replace("for number", "failed = 0\nfor number").replace(
        "    outbox.put([", "    try: outbox.put(["
    )
    code = code.replace(
        "    print(number, flush=True)",
        "    except OSError: failed += 1\nprint(failed)",
    )
    environment = {**os.environ, failpoints.VARIABLE: f"{point}=full@2"}
    child = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "o")],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert child.stdout.split() == ["1"]
    outbox = Outbox(tmp_path / "o")
    assert bodies(outbox) == [1, 3, 4, 5] and outbox.damaged == 0
    assert [message.number for message in outbox.waiting()] == [1, 2, 3, 4]
