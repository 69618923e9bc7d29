"""Apps that do odd things to their process: each is a clear line, or right."""

import json
import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from fedlearn.apps import start
from fedlearn.apps.api import run_app
from fedlearn.errors import ConfigError, RecordError, RunError
from tests.apps.making import TWICE, lines, ran, write

# Partition → what its node does to the worker's process.
RUDE = """
    import os, signal, sys, threading, time
    metrics["cwd"] = int(os.getcwd() == home)
    metrics["path"] = int("/nowhere" in sys.path)
    metrics["variable"] = int("RUDE" in os.environ)
    metrics["handler"] = int(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)
    print("node", me, "speaks")
    if me == 0:
        os.chdir("/")
        sys.path = ["/nowhere", *sys.path]
        os.environ["RUDE"] = "1"
        signal.signal(signal.SIGTERM, lambda *_: None)
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        signal.signal(signal.SIGALRM, lambda *_: None)
    if me == 1:
        sys.stdout.close()
        sys.stderr.close()
    if me == 2 and os.fork() == 0:
        metrics["child"] = 1
    if me == 3:
        threading.Thread(target=time.sleep, args=(60,), name="sleeper").start()
    if me == 4:
        class Ended(BaseException):
            pass
        raise Ended("as it likes")
    if me == 5:
        metrics = {"nan": float("nan"), "": 1, "ü/\\n\\x1b[31m": float("inf"), "me": me}
    if me == 6:
        sys.stdout = None
        os.close(2)
"""


def test_what_a_node_does_to_its_worker_is_put_back(tmp_path):
    app = write(tmp_path / "app", TWICE, RUDE, nodes=8)
    module = app / "odd" / "client_app.py"
    module.write_text("import os\nhome = os.getcwd()\n" + module.read_text())
    summary = ran(app, tmp_path / "run", workers=1)
    log = (tmp_path / "run" / "app.log").read_text()
    # Those that raise: no other was harmed, and nobody saw what another did.
    assert summary["failed"] == 2
    assert {f for line in lines(tmp_path / "run") for f in line["failures"]} == {"1004"}
    assert summary["first_failure"]["reason"] == "Ended: as it likes"
    sound = "'cwd': 1, 'path': 0, 'variable': 0, 'handler': 1"
    for node in (0, 1, 2, 3, 6, 7):
        assert log.count(f"reply False {{'me': {node}, {sound}}}") == 2
        assert log.count(f"node {node} speaks") == 2
    assert "'child'" not in log
    assert log.count("left a thread running ('sleeper')") == 1
    assert "nan" in log


RUDE_SERVER = """
    import json, os, signal, sys, threading, time
    os.chdir("/")
    sys.path = []
    json.dumps = json.loads = None
    signal.signal(signal.SIGINT, lambda *_: None)
    sys.stdout.reconfigure(line_buffering=True)
    sys.stdout.buffer.write(b"bytes of it\\n")
    print("number", sys.stdout.fileno() > 2)
    os.write(sys.stderr.fileno(), b"by its number\\n")
    sys.stdout.close()
    thread = threading.Thread(target=time.sleep, args=(0.2,), name="napper")
    if os.fork() == 0:
        grid.push_messages(asked(grid, nodes))
    list(grid.send_and_receive(asked(grid, nodes)))
    print("after", "it")
    thread.start()
"""


def test_what_a_server_does_to_its_process_is_put_back(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dumps, loads = json.dumps, json.loads
    interrupt = signal.getsignal(signal.SIGINT)
    path = list(sys.path)
    write(tmp_path / "app", RUDE_SERVER)
    shown: list[str] = []
    try:
        # Relative paths: the app goes elsewhere.
        summary = ran(Path("app"), Path("run"), shown=shown)
    finally:
        json.dumps, json.loads = dumps, loads
    assert (summary["messages"], summary["failed"]) == (2, 0)
    assert os.getcwd() == str(tmp_path)
    assert sys.path == path
    assert signal.getsignal(signal.SIGINT) is interrupt
    log = (tmp_path / "run" / "app.log").read_text()
    for text in ("bytes of it", "number True", "by its number", "after it"):
        assert text in log
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["messages"] == 2


@pytest.mark.parametrize(
    ("server", "message"),
    [
        (
            "    class Odd(BaseException): pass\n    raise Odd('so')\n",
            r"the ServerApp raised Odd: so \(odd/server_app.py, line 17\)",
        ),
        ("    import sys; sys.exit(3)\n", "ended the program with code 3"),
        (
            "    for reply in grid.send_and_receive(asked(grid, nodes)):\n"
            "        print(reply.content)\n",
            "after all 2 messages of round 1 failed; the first: node 1000: ValueError: no",
        ),
        (
            "    try:\n        grid.push_messages([3])\n"
            "    except AttributeError:\n        raise ValueError('three') from None\n",
            "the ServerApp raised ValueError: three",
        ),
    ],
)
def test_a_server_that_ends_badly_is_one_line(server, message, tmp_path):
    app = write(tmp_path / "app", server, "    raise ValueError('no')\n")
    with pytest.raises(RunError, match=message) as raised:
        ran(app, tmp_path / "run")
    assert "\n" not in str(raised.value)


def test_failures_that_a_server_passes_over_are_told(tmp_path):
    client = "    if me == 1:\n        raise KeyError('label')\n"
    app = write(tmp_path / "app", client=client)
    shown: list[str] = []
    summary = ran(app, tmp_path / "run", shown=shown)
    text = "2 of 4 messages failed; the first: node 1001 in round 1: KeyError: 'label'"
    assert f"failures  {text}" in shown[-1]
    assert summary["first_failure"] == {
        "round": 1,
        "node": 1001,
        "reason": "KeyError: 'label'",
    }
    assert text in (tmp_path / "run" / "report.html").read_text().replace("&#x27;", "'")


def test_when_all_fail_the_error_has_the_first_reason(tmp_path):
    app = write(tmp_path / "app", client="    raise KeyError('label')\n")
    with pytest.raises(
        RunError, match="all 4 messages of odd failed; the first: node "
    ):
        ran(app, tmp_path / "run")


def test_a_run_folder_that_the_app_removes_is_one_line(tmp_path):
    server = (
        f"    import shutil\n    shutil.rmtree({str(tmp_path / 'run')!r})\n" + TWICE
    )
    app = write(tmp_path / "app", server)
    with pytest.raises(RecordError, match="run"):
        ran(app, tmp_path / "run")


def test_large_records_and_odd_ones_come_back_whole(tmp_path):
    client = """
    content = RecordDict({"m": MetricRecord({"": 1, "a\\x00b": 2.0, "l": [1, 2]})})
    content["big"] = ConfigRecord({"b": bytes(20_000_000), "t": "ü" * 10})
    return Message(content, reply_to=msg)
"""
    server = """
    for reply in grid.send_and_receive(asked(grid, nodes)):
        content = reply.content
        assert list(content["m"]) == ["", "a\\x00b", "l"], content
        assert len(content["big"]["b"]) == 20_000_000
"""
    summary = ran(write(tmp_path / "app", server, client), tmp_path / "run")
    assert summary["failed"] == 0
    assert summary["bytes_up"] > 40_000_000


def test_a_second_run_in_one_folder_is_refused(tmp_path):
    hold = tmp_path / "hold"
    server = f"    import os, time\n    while not os.path.exists({str(hold)!r}):\n"
    app = write(tmp_path / "app", f"{server}        time.sleep(0.02)\n{TWICE}")
    out = tmp_path / "run"
    errors = []

    def second():
        while not (out / "app.json").exists() or not (out / "app.log").exists():
            pass
        for resume in (False, True):
            try:
                ran(app, out, resume=resume)
            except ConfigError as error:
                errors.append(str(error))
        hold.touch()

    thread = threading.Thread(target=second)
    thread.start()
    assert ran(app, out)["failed"] == 0
    thread.join()
    assert "already holds a run" in errors[0]
    assert "another process is writing" in errors[1]


def test_a_run_that_goes_on_with_a_changed_app_is_told(tmp_path):
    stop = tmp_path / "stop"
    stop.touch()
    server = (
        f"{TWICE}        import os\n        assert not os.path.exists({str(stop)!r})\n"
    )
    app = write(tmp_path / "app", server)
    out = tmp_path / "run"
    with pytest.raises(RunError, match="AssertionError"):
        ran(app, out)
    stop.unlink()
    with pytest.raises(ConfigError, match="another run-config"):
        ran(app, out, resume=True, changes={"mark": 1})
    module = app / "odd" / "client_app.py"
    module.write_text(module.read_text().replace('"me": me', '"me": me + 10'))
    shown: list[str] = []
    summary = run_app(start.of_folder(out), out, resume=True, show=shown.append).summary
    assert "the app has changed since the run began (odd/client_app.py)" in shown[0]
    # The two of the first turn were there, the others are asked.
    assert (summary["messages"], summary["failed"]) == (4, 0)
    log = (out / "app.log").read_text()
    assert "{'me': 1}" in log
    assert "{'me': 11}" in log


HANGS = "    import time\n    if me == 1:\n        time.sleep(600)\n"


def test_a_node_that_hangs_has_failed_by_name(tmp_path):
    app = write(tmp_path / "app", client=HANGS, nodes=3)
    sets = ("engine.client_timeout_s=1.5",)
    summary = ran(app, tmp_path / "run", sets, workers=2)
    assert (summary["messages"], summary["failed"]) == (6, 2)
    reason = "no answer within engine.client_timeout_s = 1.5"
    assert lines(tmp_path / "run")[0]["failures"] == {"1001": reason}
    log = (tmp_path / "run" / "app.log").read_text()
    assert log.count(f"reply True {reason}") == 2
    assert log.count("reply False {'me': 2}") == 2


def test_a_late_reply_is_left_out_as_in_flower(tmp_path):
    server = """
    replies = grid.send_and_receive(asked(grid, nodes), timeout=1.5)
    print("there", [r.metadata.src_node_id for r in replies])
    print("none", list(grid.send_and_receive(asked(grid, nodes[:1]), timeout=0)))
    assert not __import__("os").path.exists(STOP)
    print("all", len(list(grid.send_and_receive(asked(grid, nodes[:1]), timeout=1e9))))
"""
    stop = tmp_path / "stop"
    stop.touch()
    app = write(tmp_path / "app", server.replace("STOP", repr(str(stop))), HANGS)
    out = tmp_path / "run"
    with pytest.raises(RunError, match="AssertionError"):
        ran(app, out)
    # It goes on without the node that was late, whoever would be in time now.
    stop.unlink()
    summary = ran(app, out, resume=True)
    log = (out / "app.log").read_text()
    assert log.count("there [1000]") == 2
    assert log.count("none []") == 2
    assert "all 1" in log
    assert summary["failed"] == 1
    assert "send_and_receive's timeout = 1.5" in summary["first_failure"]["reason"]
