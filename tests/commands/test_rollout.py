"""`fedlearn fleet` and `fedlearn rollout`: what a person is told who gives something wrong."""

import json

import pytest

from fedlearn.commands import fleet, rollout, sign
from fedlearn.exchange.releases import InstalledReport
from fedlearn.server.rollout_plan import RolloutPhase, RolloutProgress
from fedlearn.server.rollout_store import RolloutStore
from tests.clients.device import releases


@pytest.fixture
def folder(tmp_path):
    """A fleet's folder to which three devices have reported."""
    store = RolloutStore(tmp_path)
    for device in (0, 1, 2):
        store.keep_report(device, InstalledReport(f"disk {device}", 1, None))
    store.close()
    return tmp_path


@pytest.fixture
def package(tmp_path):
    sign.main(["--new-key", str(tmp_path / "keys")])
    place = tmp_path / "package"
    releases.write(place, 1)
    sign.main([str(place), "--key", str(tmp_path / "keys" / "release.key")])
    return place


def ended(capsys, *words):
    """Return the exit code and what was printed on both streams."""
    capsys.readouterr()
    code: object
    try:
        code = rollout.main([str(word) for word in words])
    except SystemExit as end:
        code = end.code
    output = capsys.readouterr()
    return code, output.out, output.err


def test_a_rollout_is_written_down_steered_and_told(folder, package, capsys):
    key = folder / "keys" / "release.pem"
    code, out, _ = ended(
        capsys, "start", package, "--fleet", folder, "--key", key, "--shares", "0.3,1"
    )
    assert code == 0 and "in the place of no model\nwaves of 1, 2 devices" in out
    code, out, _ = ended(capsys, "status", "--fleet", folder, "--json")
    value = json.loads(out)
    assert (value["phase"], value["wave"]) == ("running", 1)
    # The canary alone: of the others nothing is wanted yet.
    assert len(value["unsettled"]) == 1
    code, _, err = ended(capsys, "start", package, "--fleet", folder)
    assert code == 2 and "rollout 1 is running; wait for its end" in err
    code, _, err = ended(capsys, "resume", "--fleet", folder)
    assert code == 2 and "rollout 1 is running: it cannot resume" in err
    code, out, _ = ended(capsys, "pause", "--fleet", folder)
    assert code == 0 and "rollout 1: pause is noted" in out
    store = RolloutStore(folder)
    assert [wish.verb for wish in store.wishes()] == ["pause"]
    store.keep_progress(1, RolloutProgress(RolloutPhase.DONE))
    store.close()
    releases.write(folder / "next", 2)
    sign.main([str(folder / "next"), "--key", str(folder / "keys" / "release.key")])
    code, out, _ = ended(capsys, "start", folder / "next", "--fleet", folder)
    assert code == 0 and "small 2" in out and "in the place of small 1" in out


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["status", "--fleet", "nowhere"], 2, "'nowhere' is no fleet's folder"),
        (["pause", "--fleet", "."], 2, "has no rollout yet"),
        (["start", "nothing", "--fleet", "."], 2, "'nothing' is no folder"),
        (["start", "p", "--fleet", ".", "--chain"], 2, "--chain needs the devices"),
        (["start", "p", "--fleet", ".", "--devices", "3-1"], 2, "no range of ids"),
        (
            ["start", "p", "--fleet", ".", "--devices", "x"],
            2,
            "no list such as 0,3,5-9",
        ),
        (["start", "p", "--fleet", ".", "--most-failed", "2"], 2, "from 0 to 1"),
        (["start", "p", "--fleet", ".", "--errors", "nan"], 2, "no number from 0"),
        (["start", "package", "--fleet", ".", "--shares", "1,0.5"], 2, "shares rise"),
        (["start", "package", "--fleet", ".", "--devices", "1,1"], 2, "a device twice"),
        (["go"], 2, "invalid choice"),
    ],
)
def test_what_is_wrong_is_one_line(
    folder, package, capsys, monkeypatch, words, code, line
):
    monkeypatch.chdir(folder)
    end, _, err = ended(capsys, *words)
    assert (end, err.count("\n")) == (code, 1)
    assert line in err


def test_a_package_that_no_device_could_take_is_refused_at_once(folder, capsys):
    releases.write(folder / "unsigned", 1)
    code, _, err = ended(capsys, "start", folder / "unsigned", "--fleet", folder)
    assert code == 2 and "is not signed, and no device takes it" in err


def test_a_fleet_without_devices_has_nobody_to_roll_out_to(tmp_path, package, capsys):
    RolloutStore(tmp_path).close()
    code, _, err = ended(capsys, "start", package, "--fleet", tmp_path)
    assert code == 2 and "no device has reported to this fleet yet" in err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["f"], "agents are known by certificates"),
        (["f", "--pki", "nowhere"], "there is no authority in 'nowhere'"),
        (["f", "--insecure", "--pki", "p"], "exclude each other"),
        (["f", "--insecure", "--devices", "0"], "--devices 0: from 1 to"),
        (["f", "--insecure", "--port", "70000"], "--port 70000: from 0 to 65535"),
    ],
)
def test_options_of_a_fleet_are_checked_first(
    words, line, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert fleet.main(words) == 2
    assert line in capsys.readouterr().err
    assert not (tmp_path / "f").exists()
