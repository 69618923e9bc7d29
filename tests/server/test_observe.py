"""What a coordinator tells: its log, who took part, its figures, and an end by SIGTERM
after which nothing is lost.
"""

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from fedlearn.clients.agent import identity as agent_identity
from fedlearn.errors import RecordError, RunError
from fedlearn.exchange import exchange_pb2 as pb
from fedlearn.exchange.keys import proto
from fedlearn.records.names import LOG_FILE, OLD_LOG_FILE
from fedlearn.server import identity, observe
from fedlearn.server.actions import StoreAnswer
from fedlearn.server.figures import ExchangeFigures, Lines, exposition
from fedlearn.server.journal import Journal
from fedlearn.server.listening import Address
from fedlearn.server.observe import Log, read
from fedlearn.server.pages import Pages
from fedlearn.server.rounds import Rounds
from fedlearn.server.service import Service
from fedlearn.server.witness import Witness, took_part
from fedlearn.server.work import WorkOrder
from tests.jobs import run

ROOT = Path(__file__).parents[2]
KEY = (3, "train", 0)


def written(folder):
    return [
        json.loads(line)
        for name in (OLD_LOG_FILE, LOG_FILE)
        if (folder / name).exists()
        for line in (folder / name).read_text().split("\n")
        if line
    ]


def test_an_event_is_one_line_of_json(tmp_path):
    log = Log(tmp_path / LOG_FILE, "nothing")
    log("attended", 7, attending=1)
    log("failed", 7, KEY, "two\nlines and \x1b[31m")
    log.close()
    first, second = written(tmp_path)
    assert {k: v for k, v in first.items() if k != "time"} == {
        "event": "attended",
        "client": 7,
        "attending": 1,
    }
    assert (second["key"], second["text"]) == ("3/train/0", "two\nlines and \x1b[31m")
    assert first["time"].endswith("Z") and len(first["time"]) == len(
        "2026-01-02T03:04:05.678Z"
    )
    assert read(tmp_path) == [first, second]


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        ("nothing", []),
        ("notes", ["fedlearn: agents attend\\x1b"]),
        ("text", ["attended client 7", "failed client 7 3/train/0 two\\nlines"]),
        ("json", ['"event": "attended"', '"text": "two\\nlines"']),
    ],
)
def test_standard_error_has_what_was_asked_for(shown, expected):
    out = io.StringIO()
    log = Log(None, shown, out)
    log("attended", 7)
    log("failed", 7, KEY, "two\nlines")
    log.note("agents attend\x1b")
    log.close()
    lines = [" ".join(line.split()) for line in out.getvalue().splitlines()]
    assert len(lines) == (0 if shown == "nothing" else 1 if shown == "notes" else 3)
    assert all(text in line for text, line in zip(expected, lines, strict=False))
    assert "\x1b" not in out.getvalue()


def test_the_log_is_replaced_when_it_has_grown(tmp_path):
    most, events = 20_000, 3_000
    log = Log(tmp_path / LOG_FILE, "nothing", most_bytes=most)
    for number in range(events):
        log("asked", number)
        while log._queue.qsize() > 50:  # small batches, as in life
            time.sleep(0.001)
    log.close()
    found = written(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [LOG_FILE, OLD_LOG_FILE]
    assert all(path.stat().st_size <= most for path in tmp_path.iterdir())
    assert [entry["client"] for entry in found] == list(
        range(events - len(found), events)
    )  # the newest, none missing


class Stuck(io.StringIO):
    """A standard error that nobody reads."""

    def __init__(self):
        super().__init__()
        self.entered, self.free = threading.Event(), threading.Event()

    def write(self, text):
        self.entered.set()
        self.free.wait(60)
        return super().write(text)


def test_a_log_that_cannot_be_written_holds_nobody_up(tmp_path, monkeypatch):
    """The callers go on while standard error is stuck; what found no room is told when it
    is free again.
    """
    monkeypatch.setattr(observe, "WAITING", 1000)
    stuck = Stuck()
    log = Log(tmp_path / LOG_FILE, "text", stuck)
    log("first")
    assert stuck.entered.wait(60)
    for number in range(observe.WAITING + 100):
        log("asked", number)
    assert log.lost == 100
    stuck.free.set()
    while not log._queue.empty():
        time.sleep(0.01)
    log.close()
    found = written(tmp_path)
    assert [entry["text"] for entry in found if entry["event"] == "lost"] == [
        "100 lines of this log"
    ]
    assert sum(entry["event"] == "asked" for entry in found) == observe.WAITING


@pytest.mark.skipif(
    not Path("/dev/full").exists(), reason="needs a device that is full"
)
def test_a_full_disk_is_no_reason_to_end():
    log = Log(Path("/dev/full"), "nothing")
    log("attended", 1)
    log("attended", 2)
    log.close()
    assert log.lost >= 2


def test_a_line_that_a_kill_tore_costs_no_other(tmp_path):
    (tmp_path / LOG_FILE).write_text('{"event": "left"}\n{"event": "ask')
    log = Log(tmp_path / LOG_FILE, "nothing")
    log("attended", 1)
    log.close()
    assert [entry["event"] for entry in read(tmp_path)] == ["left", "attended"]


def hello(client):
    return pb.AgentFrame(
        hello=pb.Hello(oldest=1, newest=1, software="test", client=client)
    )


def answer(key, data, checksum):
    return pb.AgentFrame(
        chunk=pb.Chunk(
            key=proto(key), offset=0, total=len(data), data=data, checksum=checksum
        )
    )


@pytest.fixture
def told(tmp_path):
    """A state machine of 3 clients whose actions are written down: (rounds, do, events)."""
    rounds = Rounds(b"r" * 16, "{}", 3, 1000)
    log = Log(tmp_path / LOG_FILE, "nothing")
    witness = Witness(log, rounds)

    def do(actions):
        for action in actions:
            witness.saw(action)

    def events():
        log.close()
        return [
            (e["event"], e.get("client"), e.get("key"), e.get("text", ""))
            for e in read(tmp_path)
        ]

    return rounds, witness, do, events


def test_a_round_as_the_log_tells_it(told):
    import zlib

    rounds, witness, do, events = told
    for client in range(3):
        do(rounds.connected(10 + client, None, 0.0))
        do(rounds.heard(10 + client, hello(client), 0.0))
    works = [
        WorkOrder(client, KEY, pb.Task(key=proto(KEY)), (b"12345",))
        for client in range(3)
    ]
    do(rounds.ask(works, 0.0, deadline_s=5.0))
    do(rounds.heard(10, answer(KEY, b"abc", zlib.crc32(b"abc")), 1.0))
    do(rounds.stored(0, KEY))
    do(rounds.heard(10, answer(KEY, b"abd", zlib.crc32(b"abd")), 1.0))
    lacking = pb.Failure(key=proto(KEY), reason=pb.Failure.LACKING)
    do(rounds.heard(11, pb.AgentFrame(failure=lacking), 1.0))
    do(rounds.repair(1, KEY, pb.Task(key=proto(KEY)), (b"1234567",), 1.0))
    declined = pb.Failure(key=proto(KEY), reason=pb.Failure.DECLINED, text="too hot")
    do(rounds.heard(11, pb.AgentFrame(failure=declined), 1.0))
    do(rounds.heard(12, pb.AgentFrame(heartbeat=pb.Heartbeat()), 4.0))
    do(rounds.tick(5.0))
    do(rounds.gone(12))
    witness.ended(12)
    key = "3/train/0"
    assert events() == [
        ("attended", 0, None, ""),
        ("attended", 1, None, ""),
        ("attended", 2, None, ""),
        ("asked", 0, key, ""),
        ("asked", 1, key, ""),
        ("asked", 2, key, ""),
        ("answered", 0, key, ""),
        ("refused", 0, key, "another answer is stored already"),
        ("lacking", 1, key, "the model that the difference starts from; it is sent"),
        ("asked", 1, key, ""),
        ("declined", 1, key, "declined: too hot"),
        ("late", 2, key, "late: no answer in time"),
        ("left", 2, None, ""),
    ]
    assert (witness.up_bytes, witness.down_bytes) == (3, 3 * 5 + 7)


def test_strangers_are_turned_away_and_the_silent_leave_with_a_reason(told):
    rounds, witness, do, events = told
    do(rounds.connected(1, None, 0.0))
    do(rounds.heard(1, hello(9), 0.0))
    witness.ended(1)
    do(rounds.connected(2, None, 0.0))
    do(rounds.heard(2, hello(1), 0.0))
    do(rounds.tick(10_000.0))
    witness.ended(2)
    do(rounds.connected(3, None, 0.0))
    do(rounds.gone(3))
    witness.ended(
        3
    )  # it never said who it is, and nobody sent it away: nothing to tell
    found = events()
    assert [(event, client) for event, client, _, _ in found] == [
        ("turned away", None),
        ("attended", 1),
        ("left", 1),
    ]
    assert (
        found[0][3] == "client 9 is not of this experiment: it has clients 0 to 2"
        and found[2][3] == "silent for 400 s"
    )


def test_an_answer_refused_behind_the_clients_back_is_told_once(told):
    rounds, witness, do, events = told
    do(rounds.connected(1, None, 0.0))
    do(rounds.heard(1, hello(1), 0.0))
    for client in (1, 2):
        actions = rounds.refuse(client, KEY, "not finite")
        do(actions)
        if not actions:
            witness.refused(client, KEY, "not finite")
    assert events()[1:] == [
        ("refused", 1, "3/train/0", "not finite"),
        ("refused", 2, "3/train/0", "not finite"),
    ]


def test_who_took_part_is_in_the_journal(tmp_path):
    journal = Journal(tmp_path / "journal")
    for name, counted, refused, without in (
        ("closed/1/train/1", [0, 1], {1: "not finite"}, {2: "late: no answer in time"}),
        ("closed/1/evaluate/1", [0], {}, {}),
        (
            "closed/2/train/1",
            [0],
            {},
            {
                2: "late: no answer in time",
                11: "declined: too hot",
                1: "RuntimeError: boom",
            },
        ),
    ):
        meta = {"kind": "closed", "key": name, "refused": refused, "without": without}
        journal.append(meta, json.dumps(counted).encode()).result()
    journal.append({"kind": "answer", "key": "0/1/train/0"}, b"payload").result()
    journal.close()
    table = took_part(journal)
    none = {
        "asked": 0,
        "answered": 0,
        "refused": 0,
        "failed": 0,
        "declined": 0,
        "late": 0,
        "reasons": {},
    }
    assert list(table) == ["0", "1", "2", "11"]
    assert table["0"] == {
        "train": none | {"asked": 2, "answered": 2},
        "evaluate": none | {"asked": 1, "answered": 1},
    }
    assert table["1"]["train"] == none | {
        "asked": 2,
        "refused": 1,
        "failed": 1,
        "reasons": {"not finite": 1, "RuntimeError: boom": 1},
    }
    assert table["2"]["train"] == none | {
        "asked": 2,
        "late": 2,
        "reasons": {"late: no answer in time": 2},
    }
    assert table["11"]["train"] == none | {
        "asked": 1,
        "declined": 1,
        "reasons": {"declined: too hot": 1},
    }


FIGURES = ExchangeFigures(
    attending=3,
    open=2,
    counters={"left": 4},
    up_bytes=10,
    down_bytes=20,
    journal_bytes=30,
    enrollments={"used": 1},
)


def test_the_text_that_prometheus_reads(tmp_path):
    (tmp_path / "m").write_text(
        '{"round": 1, "accuracy": 0.5, "loss": 1.5, "seconds": 2.0}\n'
        '{"round": 2, "accuracy": null, "seconds": 3.0}\n{"ro'
    )
    lines = Lines(tmp_path / "m")
    lines.look()
    text = exposition(FIGURES, lines, 9)
    samples = dict(
        line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")
    )
    assert (
        samples["fedlearn_agents_attending"] == "3"
        and samples["fedlearn_work_open"] == "2"
    )
    assert (
        samples["fedlearn_rounds_done"],
        samples["fedlearn_rounds"],
        samples["fedlearn_round_seconds"],
    ) == ("2", "9", "3")
    assert (samples["fedlearn_accuracy"], samples["fedlearn_loss"]) == ("0.5", "1.5")
    assert samples['fedlearn_exchange_events_total{event="left"}'] == "4"
    assert samples['fedlearn_exchange_events_total{event="late"}'] == "0"
    assert samples['fedlearn_payload_bytes_total{direction="down"}'] == "20"
    assert samples['fedlearn_enrolments_total{result="used"}'] == "1"
    names = {line.split("{")[0].split(" ")[0] for line in samples}
    assert names == {
        line.split(" ")[2] for line in text.splitlines() if line.startswith("# TYPE")
    }


def test_lines_are_read_on_and_anew_when_the_file_was_cut(tmp_path):
    file = tmp_path / "m"
    lines = Lines(file)
    lines.look()
    assert lines.last == {}
    file.write_text('{"round": 1}\n{"round": 2, "accur')
    lines.look()
    assert lines.last == {"round": 1}
    with file.open("a") as more:
        more.write('acy": 0.5}\n')
    lines.look()
    assert lines.last == lines.scored == {"round": 2, "accuracy": 0.5}
    file.write_text('{"round": 7}\n')
    lines.look()
    assert lines.last == {"round": 7}


def get(port, page):
    """Return code and text of a page."""
    try:
        with urllib.request.urlopen(
            f"http://127.0.0.1:{port}{page}", timeout=30
        ) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_health_tells_what_is_wrong(tmp_path):
    state: dict[str, ExchangeFigures | None] = {"now": FIGURES}

    def figures():
        if state["now"] is None:
            raise RunError("the exchange does not answer")
        return state["now"]

    pages = Pages(0, figures, Lines(tmp_path / "m"), 9)
    with contextlib.closing(pages):
        assert get(pages.port, "/healthz") == (200, "ok\n")
        assert "fedlearn_healthy 1\n" in get(pages.port, "/metrics")[1]
        state["now"] = ExchangeFigures(
            0, 0, {}, 0, 0, 0, trouble="cannot write 'journal': no space left on device"
        )
        assert get(pages.port, "/healthz") == (
            503,
            "cannot write 'journal': no space left on device\n",
        )
        assert (
            get(pages.port, "/metrics")[0] == 200
            and "fedlearn_healthy 0\n" in get(pages.port, "/metrics")[1]
        )
        state["now"] = None
        assert (
            get(pages.port, "/healthz")
            == get(pages.port, "/metrics")
            == (503, "the exchange does not answer\n")
        )
        assert get(pages.port, "/else")[0] == 404
        assert pages._server.server_address[0] == "127.0.0.1"
        with pytest.raises(
            RunError, match=rf"127\.0\.0\.1:{pages.port}: .*another --metrics-port"
        ):
            Pages(pages.port, figures, Lines(tmp_path / "m"), 9)


def test_a_caller_that_says_nothing_holds_up_no_other(tmp_path):
    pages = Pages(0, lambda: FIGURES, Lines(tmp_path / "m"), 9)
    with contextlib.closing(pages), socket.create_connection(("127.0.0.1", pages.port)):
        assert get(pages.port, "/healthz")[0] == 200


def test_a_service_tells_its_figures_until_it_is_over(tmp_path):
    log, journal = Log(tmp_path / LOG_FILE, "nothing"), Journal(tmp_path / "journal")
    service = Service(Rounds(b"r" * 16, "{}", 3, 1000), journal, Address(), log)
    service.start()
    assert (
        service.figures().attending,
        service.figures().open,
        service.figures().trouble,
    ) == (0, 0, None)
    work = WorkOrder(1, KEY, pb.Task(key=proto(KEY)), (b"12345",))
    service.ask([work], 1000.0, 1)
    assert service.figures().open == 1
    journal.close()  # as a disk that fails: it takes no more
    for _ in range(2):
        service._loop.call_soon_threadsafe(
            service._store, StoreAnswer(1, KEY, b"abc", 0)
        )
        with pytest.raises(RecordError, match="is closed"):
            service.next()
    assert "is closed" in (service.figures().trouble or "")
    service.stop(over=False)
    with pytest.raises(RunError, match="does not answer"):
        service.figures()
    log.close()
    assert [entry["event"] for entry in read(tmp_path)] == [
        "journal failed",
        "drain",
    ]  # each once


CONFIG = """\
[experiment]
name = "drained"
rounds = 3
[data]
name = "digits"
[data.partition]
kind = "iid"
clients = 2
[model]
name = "logistic"
[train]
lr = 0.5
[strategy]
name = "fedavg"
fraction_train = 1.0
[engine]
kind = "serial"
"""


def serve(folder: Path, *more: str) -> subprocess.Popen:
    command = [
        sys.executable,
        "-m",
        "fedlearn.commands.serve",
        str(folder.with_suffix(".toml")),
        "--out",
        str(folder),
        "--pki",
        str(folder.parent / "pki"),
    ]
    return subprocess.Popen(
        [*command, "--quiet", "--metrics-port", "0", *more],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )


def agent(folder: Path, port: int, client: int) -> subprocess.Popen:
    """Start an agent that nothing but the coordinator's word ends."""
    state = folder / f"agent-{client}"
    made = identity.sign(folder / "pki", client, agent_identity.make_key_and_csr(state))
    agent_identity.store(
        state,
        client,
        made,
        (folder / "pki" / "ca.pem").read_bytes(),
        identity.expiry(made),
    )
    command = [
        sys.executable,
        "-m",
        "fedlearn.agent",
        "--coordinator",
        f"127.0.0.1:{port}",
        "--state",
        str(state),
    ]
    with open(folder / f"agent-{client}.log", "wb") as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)


def until(condition, process):
    """Wait for a condition while a process lives; returns what is true."""
    while not (found := condition()):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    return found


@pytest.mark.timeout(300)
def test_after_sigterm_the_agents_stay_and_nothing_is_lost(tmp_path):
    """A coordinator with agents apart from it: its figures, its end by SIGTERM in the
    middle of a round, and its return.
    """
    folder = tmp_path / "run"
    (tmp_path / "run.toml").write_text(CONFIG)
    identity.make(tmp_path / "pki", ["127.0.0.1"])
    first = serve(folder)
    started, agents = [first], []

    def address():
        with contextlib.suppress(OSError, ValueError):
            return json.loads((folder / "address.json").read_text())

    def told(event, client):
        return [
            e.get("key")
            for e in read(folder)
            if (e["event"], e.get("client")) == (event, client)
        ]

    try:
        at = until(address, first)
        agents = [agent(tmp_path, at["port"], 0)]
        until(
            lambda: told("answered", 0), first
        )  # round 1 now waits for client 1, who is not here
        assert get(at["metrics"], "/healthz") == (200, "ok\n")
        figures = get(at["metrics"], "/metrics")[1]
        assert (
            "fedlearn_agents_attending 1\n" in figures
            and "fedlearn_work_open 1\n" in figures
        )
        status = subprocess.run(
            [sys.executable, "-m", "fedlearn.commands.status", str(folder)],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert (
            status.returncode == 0
            and "running" in status.stdout
            and "1 attend" in status.stdout
            and "0 of 3 done" in status.stdout
        )
        first.send_signal(signal.SIGTERM)
        first.send_signal(signal.SIGTERM)  # a second one changes nothing
        assert first.communicate()[1] == ""
        assert first.returncode == 130 and not (folder / "summary.json").exists()
        agents.append(agent(tmp_path, at["port"], 1))
        started.append(second := serve(folder, "--resume"))
        assert second.communicate() == (None, "")
        assert second.returncode == 0
        assert address()["port"] == at["port"]  # where the agents look for it
        assert [process.wait() for process in agents] == [
            0,
            0,
        ]  # they outlived it, and end with the run
    finally:
        for process in (*started, *agents):
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
    assert told("asked", 0) == [
        "1/train/0",
        "2/train/0",
        "3/train/0",
    ]  # what it had answered was not asked again
    assert told("attended", 0) and read(folder)[-1]["event"] == "left"
    simulated = run(tmp_path / "simulated", config=CONFIG).summary
    summary = json.loads((folder / "summary.json").read_text())
    assert [summary[k] for k in ("model_sha256", "bytes_up", "rounds")] == [
        simulated[k] for k in ("model_sha256", "bytes_up", "rounds")
    ]
    table = json.loads((folder / "clients.json").read_text())
    assert {
        client: (kinds["train"]["asked"], kinds["train"]["answered"])
        for client, kinds in table.items()
    } == {"0": (3, 3), "1": (3, 3)}
