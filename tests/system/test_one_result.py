"""One config, one result: over engines, numbers of workers, kills and resumes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedlearn.records.writing import RunFolder
from tests.jobs import CONFIG, run

CNN = CONFIG.replace('"logistic"', '"cnn-small"').replace(
    "lr = 0.5", 'lr = 0.1\nmomentum = 0.5\naugment = "shift"'
)
CODED = '[codec]\nup = "q8"\ndown = "f16"\n[evaluate]\nclients = true\n'
SHADOW = '[codec]\nup = "eden1"\ndown = "eden1"\n[evaluate]\nclients = true\n'


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    return run(tmp_path_factory.mktemp("serial") / "run", config=CNN + CODED)


def without_times(lines):
    return [
        {k: v for k, v in line.items() if not k.startswith("seconds")} for line in lines
    ]


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_pool_equals_serial_bit_for_bit(workers, serial, tmp_path):
    pool = run(
        tmp_path / "run", f"engine.workers={workers}", config=CNN + CODED, engine="pool"
    )
    assert pool.sha256 == serial.sha256
    assert without_times(pool.lines) == without_times(serial.lines)


def test_differences_from_each_clients_copy_are_the_same_in_every_engine(tmp_path):
    serial = run(tmp_path / "serial", "experiment.rounds=5", config=CNN + SHADOW)
    pool = run(
        tmp_path / "pool",
        "experiment.rounds=5",
        "engine.workers=3",
        config=CNN + SHADOW,
        engine="pool",
    )
    assert serial.code == 0
    assert pool.sha256 == serial.sha256
    assert without_times(pool.lines) == without_times(serial.lines)
    assert all(
        20 < line["bytes_raw"] / (line["bytes_up"] + line["bytes_down"]) < 32
        for line in serial.lines[2:]
    )
    first = serial.lines[
        1
    ]  # who holds the first model is sent no values; those who evaluate the next one are
    assert first["bytes_raw"] / (first["bytes_up"] + first["bytes_down"]) > 32


def test_another_seed_another_model(serial, tmp_path):
    assert (
        run(tmp_path / "run", "experiment.seed=1", config=CNN + CODED).sha256
        != serial.sha256
    )


def test_bytes_are_those_of_the_payloads(serial):
    # digits: 64 inputs; the payload of q8 is one byte a value and a float32 scale per 1,024,
    # f16 two bytes a value.
    floats = json.loads((serial.folder / "manifest.json").read_text())["model"][
        "floats"
    ]
    q8, f16 = floats + 4 * -(-floats // 1024), 2 * floats
    for line in serial.lines[1:]:
        assert line["clients"] == 6
        assert 0 < line["bytes_up"] / 6 - q8 < 80
        assert (
            0
            < line["bytes_down"] / (6 + line["clients_evaluation"]["clients"]) - f16
            < 80
        )
        assert line["bytes_raw"] == (6 + 6 + 12) * 4 * floats


def test_clients_evaluate(serial):
    evaluation = serial.lines[-1]["clients_evaluation"]
    assert evaluation["clients"] == 12
    assert evaluation["worst10"] <= evaluation["accuracy"] <= 1
    assert evaluation["spread"] > 0


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "fedlearn.simulate",
        "--out",
        str(folder),
        *arguments,
    ]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def lines_of(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for(folder: Path, lines: int, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 60
    while (
        lines_of(folder) < lines and process.poll() is None and time.monotonic() < until
    ):
        time.sleep(0.005)


SLOW = CONFIG.replace(
    'name = "logistic"', 'name = "tests.faults:Slow"\nseconds = 0.002'
).replace("rounds = 3", "rounds = 8")
SLOW = (
    SLOW.replace("[strategy]", "[strategy]\nserver_momentum = 0.5")
    + '[codec]\nup = "q8"\ndown = "eden1"\n'
)


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"]
)
def test_a_run_ended_twice_and_resumed_gives_the_undisturbed_result(number, tmp_path):
    config = tmp_path / "slow.toml"
    config.write_text(SLOW)
    whole = run(tmp_path / "whole", config=SLOW)
    folder = tmp_path / "run"
    for lines, resume in ((3, ()), (6, ("--resume",))):
        process = start(folder, str(config), "--set", "engine.workers=2", *resume)
        wait_for(folder, lines, process)
        os.kill(process.pid, number)
        output = process.communicate(timeout=30)[0]
        assert process.returncode == (-9 if number == signal.SIGKILL else 130), output
        if number == signal.SIGINT:
            assert "--resume" in output
            assert "Traceback" not in output
        else:
            with open(folder / "metrics.jsonl", "a") as file:
                file.write('{"round": 9, "lo')  # a torn line, as a kill may leave it
    newest = max((folder / "checkpoint").glob("*.safetensors"))
    newest.write_bytes(newest.read_bytes()[:100])  # and a torn file
    resumed = run(folder, config=SLOW, resume=True)
    assert resumed.code == 0
    assert resumed.sha256 == whole.sha256
    assert without_times(resumed.lines) == without_times(whole.lines)


def test_damaged_copies_of_clients_are_noticed_and_they_get_the_whole_model(tmp_path):
    whole = run(tmp_path / "whole", config=SLOW)
    parts = run(tmp_path / "parts", "experiment.rounds=4", config=SLOW)
    copies = parts.folder / "checkpoint" / "copies.f32"
    copies.write_bytes(copies.read_bytes()[:5000])
    resumed = run(tmp_path / "parts", config=SLOW, resume=True)
    assert resumed.code == 0
    assert resumed.summary["accuracy"] > whole.summary["accuracy"] - 0.05
    assert resumed.summary["bytes_down"] > 1.5 * whole.summary["bytes_down"]


def test_killed_processes_leave_no_workers(tmp_path):
    config = tmp_path / "slow.toml"
    config.write_text(SLOW)
    process = start(tmp_path / "run", str(config), "--set", "engine.workers=3")
    wait_for(tmp_path / "run", 2, process)
    children = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(process.pid)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert len(children) == 3
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)
    until = time.monotonic() + 20
    while (
        any(Path(f"/proc/{pid}").exists() for pid in children)
        and time.monotonic() < until
    ):
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)


def test_a_killed_run_is_resumed_at_once_while_its_workers_still_work(tmp_path):
    config = tmp_path / "slow.toml"
    config.write_text(SLOW.replace("seconds = 0.002", "seconds = 0.5"))
    process = start(tmp_path / "run", str(config), "--set", "engine.workers=2")
    wait_for(tmp_path / "run", 1, process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=30)
    assert process.stdout is not None
    process.stdout.close()
    RunFolder(tmp_path / "run").close()  # raises when a worker still holds the lock


def test_a_run_killed_before_its_config_is_written_starts_when_resumed(tmp_path):
    whole = run(tmp_path / "whole")
    folder = tmp_path / "run"
    (folder / "checkpoint").mkdir(parents=True)
    (folder / ".lock").write_text("")
    (folder / ".config.toml.part").write_text("[exper")
    assert run(folder, resume=True).sha256 == whole.sha256


def test_a_loss_that_is_not_finite_is_no_success(tmp_path, capsys):
    config = CONFIG.replace('"logistic"', '"tests.faults:LosesItself"')
    ran = run(tmp_path / "run", config=config)
    assert ran.code == 3
    assert "loss on held-out samples is not finite" in capsys.readouterr().err


def test_more_rounds_can_be_added_and_a_finished_run_resumed_changes_nothing(tmp_path):
    whole = run(tmp_path / "whole", "experiment.rounds=5")
    parts = run(tmp_path / "parts")
    again = run(tmp_path / "parts", resume=True)
    assert (again.code, again.sha256) == (0, parts.sha256)
    assert (
        run(tmp_path / "parts", "experiment.rounds=5", resume=True).sha256
        == whole.sha256
    )


def test_evaluating_and_saving_less_often_changes_no_bit(tmp_path):
    base = run(tmp_path / "a", "experiment.rounds=5")
    rare = run(
        tmp_path / "b",
        "experiment.rounds=5",
        "experiment.evaluate_every=2",
        "experiment.checkpoint_every=3",
    )
    assert rare.sha256 == base.sha256
    assert [line["accuracy"] is None for line in rare.lines] == [
        False,
        True,
        False,
        True,
        False,
        False,
    ]
