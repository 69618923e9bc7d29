"""`fedlearn status FLEET`, its page and figures, and `fedlearn doctor --fleet`."""

import json
import threading
import time
import urllib.request
from xml.etree import ElementTree

import pytest

from fedlearn.commands import doctor, status
from fedlearn.exchange.findings import DeviceFinding
from fedlearn.exchange.releases import (
    InstalledReport,
    InstallFailure,
    ReleaseId,
    WatchFigures,
)
from fedlearn.records.names import LOG_FILE
from fedlearn.release import fleet_status
from fedlearn.release.fleet_figures import exposition
from fedlearn.reporting.fleet_page import fleet_page, waves_picture
from fedlearn.server.device_store import DeviceDiagnosis, DeviceEntry, DeviceStore
from fedlearn.server.figures import ExchangeFigures
from fedlearn.server.journal import Journal
from fedlearn.server.observe import Log
from fedlearn.server.pages import HttpPages
from fedlearn.server.rollout_plan import RolloutPhase, RolloutPlan, RolloutProgress
from fedlearn.server.rollout_store import RolloutStore

ONE = ReleaseId("model", 1, f"{1:064x}")
TWO = ReleaseId("model", 2, f"{2:064x}")
FIGURES = WatchFigures(400, 0.01, 8.0, 0.1, 0.5)
NOW = 1_800_000_000.0


@pytest.fixture
def folder(tmp_path):
    """Three devices: one committed, one refused and drifting, one silent."""
    store = RolloutStore(tmp_path)
    store.begin(RolloutPlan(1, TWO, ONE, ((0, 1), (2,))))
    failure = InstallFailure(1, TWO, "outputs \x1b[1m differ <b>")
    store.keep_report(0, InstalledReport("d0", 4, TWO))
    store.keep_report(1, InstalledReport("d1", 4, ONE, failure=failure))
    reason = "1 of 2 devices failed"
    store.keep_progress(1, RolloutProgress(RolloutPhase.WITHDRAWN, 0, 9.0, reason))
    store.close()
    devices = DeviceStore(tmp_path)
    devices.keep(
        {
            0: DeviceEntry(True, NOW, "fedlearn 1", 400, FIGURES),
            1: DeviceEntry(True, NOW, "fedlearn 1", 100, FIGURES, ("drift",)),
            2: DeviceEntry(False, NOW, alarms=("silent",)),
        }
    )
    devices.close()
    log = Log(tmp_path / LOG_FILE, "nothing")
    log("drift", 1, text="drift 0.5, the limit is 0.25")
    log("asked", 1, text="no event of a fleet")
    log.note("rollout 1 is withdrawn")
    log.close()
    return tmp_path


@pytest.fixture
def served(folder):
    """The folder with a coordinator's lock on it."""
    journal = Journal(folder / "journal")
    yield folder
    journal.close()


def ended(main, capsys, *words):
    capsys.readouterr()
    code = main([str(word) for word in words])
    output = capsys.readouterr()
    return code, output.out, output.err


def test_a_fleets_status_is_told_with_its_troubles_first(served, capsys):
    code, out, _ = ended(status.main, capsys, served)
    lines = out.splitlines()
    assert code == 0
    assert lines[:2] == [f"fleet {served}: served", "2 of 3 devices attend"]
    assert "rollout 1: model 2 (00000000), withdrawn" in lines
    assert "wave 1, open: 0 pending, 1 committed, 1 failed" in lines
    assert "wave 2, not open: 1 pending, 0 committed, 0 failed" in lines
    devices = [line for line in lines if line.startswith("device ")]
    assert [line[:8] for line in devices] == ["device 1", "device 2", "device 0"]
    assert r"outputs \x1b[1m differ" in devices[0] and "drift 0.50" in devices[0]
    assert "silent, away since 2027-01-15 08:00 UTC" in devices[1]
    assert "400 requests, 1.00 % fail, p99 8 ms" in devices[2]
    assert "device 1" in lines[-1] and "drift 0.5, the limit is 0.25" in lines[-1]


def test_without_a_coordinator_nobody_attends(folder, capsys):
    out = ended(status.main, capsys, folder)[1]
    assert "not served; fedlearn fleet goes on with it" in out
    assert "0 of 3 devices attend" in out


def test_programs_get_all_of_it(served, capsys):
    value = json.loads(ended(status.main, capsys, served, "--json")[1])
    assert value["releases"] == {
        "model 2 (00000000)": 1,
        "model 1 (00000000)": 1,
        "no model": 1,
    }
    assert [event["event"] for event in value["events"]] == ["drift", "note"]
    assert value["devices"][1]["alarms"] == ["drift"]
    assert value["rollouts"][0]["phase"] == "withdrawn"


def test_the_page_is_one_file_without_a_script_or_a_request(served, tmp_path, capsys):
    page = tmp_path / "fleet.html"
    assert ended(status.main, capsys, served, "--page", page)[0] == 0
    text = page.read_text()
    assert "default-src 'none'" in text
    assert "<script" not in text and "http://" not in text
    # What a device says is shown as text.
    assert "differ &lt;b&gt;" in text and "\x1b" not in text


def test_the_picture_has_a_bar_a_wave_as_long_as_its_devices_are_many(served):
    value = fleet_status.status(served)
    picture = ElementTree.fromstring(waves_picture(value)).find("svg")
    assert picture is not None
    waves = picture.findall("g")
    widths = [
        [float(bar.attrib["width"]) for bar in wave.findall("rect")] for wave in waves
    ]
    assert widths == [[320.0, 320.0], [640.0]]
    titles = [bar.findtext("title") for bar in waves[0].findall("rect")]
    assert titles == ["1 committed", "1 failed"]


def test_figures_tell_devices_releases_and_the_rollout(served):
    text = exposition(fleet_status.status(served), ExchangeFigures(2, 0, {}, 0, 0, 0))
    for line in (
        "fedlearn_fleet_devices 3",
        'fedlearn_fleet_release_devices{release="model 2 (00000000)"} 1',
        'fedlearn_fleet_alarm_devices{alarm="drift"} 1',
        'fedlearn_fleet_alarm_devices{alarm="errors"} 0',
        "fedlearn_fleet_requests_total 500",
        'fedlearn_fleet_rollout_phase{phase="withdrawn"} 1',
        'fedlearn_fleet_standing_devices{standing="failed"} 1',
        "fedlearn_agents_attending 2",
    ):
        assert line in text.splitlines()


def test_a_page_says_by_its_type_what_it_is(served):
    pages = HttpPages(0, {"/": lambda: (200, fleet_page(fleet_status.status(served)))})
    try:
        url = f"http://127.0.0.1:{pages.port}/"
        with urllib.request.urlopen(url, timeout=10) as reply:
            assert reply.headers["Content-Type"] == "text/html; charset=utf-8"
            assert "withdrawn" in reply.read().decode()
    finally:
        pages.close()


def test_a_runs_page_is_not_asked_of_a_run(tmp_path, capsys):
    code, _, err = ended(status.main, capsys, tmp_path, "--page", "x.html")
    assert code == 2 and "--page is of a fleet" in err


# The doctor


class Devices(threading.Thread):
    """Answers a device's questions, as the coordinator does."""

    def __init__(self, folder, device, findings):
        super().__init__()
        self.folder = folder
        self.device = device
        self.findings = findings

    def run(self):
        store = DeviceStore(self.folder)
        deadline = time.monotonic() + 20
        while self.device not in store.questions() and time.monotonic() < deadline:
            time.sleep(0.01)
        number = store.questions()[self.device]
        store.answer(self.device, DeviceDiagnosis(number, NOW, self.findings))
        store.close()


WELL = DeviceFinding("disk", "ok", "9 GB free")
FULL = DeviceFinding("disk", "FAILS", "it is full", "make room")


def asked(folder, capsys, device, findings, *words):
    answers = Devices(folder, device, findings)
    answers.start()
    code, out, err = ended(
        doctor.main, capsys, "--fleet", folder, "--device", device, *words
    )
    answers.join()
    return code, out, err


def test_a_device_answers_with_what_is_wrong_and_what_to_do(served, capsys):
    code, out, _ = asked(served, capsys, 0, (FULL,))
    assert code == 1
    assert out.splitlines()[0] == "device 0: attends"
    assert "FAILS disk          it is full" in out and "-> make room" in out
    assert "ok    release       model 2 (00000000)" in out
    assert "1 of 1 devices are not well" in out
    assert DeviceStore(served).questions() == {}


def test_what_the_fleet_knows_stands_beside_what_the_device_says(served, capsys):
    code, out, _ = asked(served, capsys, 1, (WELL,), "--json")
    checks = json.loads(out)["devices"][0]["checks"]
    assert [(check["name"], check["state"]) for check in checks] == [
        ("disk", "ok"),
        ("release", "note"),
        ("drift", "FAILS"),
    ]
    assert "fedlearn learn" in checks[2]["fix"] and code == 1


def test_a_device_that_is_away_is_named_with_since_when(served, capsys):
    store = DeviceStore(served)
    store.answer(2, DeviceDiagnosis(store.ask(2), NOW, (FULL,)))
    store.close()
    code, out, _ = ended(doctor.main, capsys, "--fleet", served, "--device", "2")
    assert code == 1
    assert out.splitlines()[0] == (
        "device 2: away since 2027-01-15 08:00 UTC; it did not answer, and said this on "
        "2027-01-15 08:00 UTC"
    )
    assert "it is full" in out


def test_a_device_that_does_not_answer_in_time_is_told(served, capsys):
    words = ("--fleet", served, "--device", "0", "--wait-s", "0.1")
    code, out, _ = ended(doctor.main, capsys, *words)
    assert code == 1 and "device 0: attends, and has never said how it is" in out
    assert DeviceStore(served).questions() == {}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--fleet", "nowhere"], "'nowhere' is no fleet's folder"),
        (["--fleet", "."], "nobody serves the fleet '.'"),
        (["--device", "1"], "add --fleet DIR"),
        (["--fleet", ".", "--wait-s", "nan"], "--wait-s nan: from 0 to 3600"),
    ],
)
def test_a_mistake_is_one_line(folder, capsys, monkeypatch, words, line):
    monkeypatch.chdir(folder)
    code, _, err = ended(doctor.main, capsys, *words)
    assert (code, err.count("\n")) == (2, 1)
    assert line in err


def test_a_device_that_nobody_knows_is_named(served, capsys):
    code, _, err = ended(doctor.main, capsys, "--fleet", served, "--device", "77")
    assert code == 2 and "as device 77 yet" in err
