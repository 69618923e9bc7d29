"""``fedlearn collect``, and what doctor says of the outbox that it empties."""

import json
import os
import signal
import subprocess
import sys

import pytest

from fedlearn.clients.device.findings import FAILS, NOTE, SKIPPED, WELL
from fedlearn.clients.infer import outbox_check, stream_state
from fedlearn.clients.messages import outbox
from fedlearn.commands.collect import main
from fedlearn.commands.infer import main as infer
from tests.clients.infer import graphs
from tests.clients.messages.brokers import mosquitto, needs_mosquitto


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--from", "mqtt:a", "--to", "no/folder/x"], "there is no folder 'no/folder'"),
        (["--from", "a", "--to", "x"], "--from a: give mqtt:TOPIC"),
        (["--from", "mqtt:a#", "--to", "x"], "--from mqtt:a#"),
        (["--from", "mqtt:a", "--to", "x", "--broker", "far.example"], "in the clear"),
        (["--to", "x"], "--from"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, words, capsys):
    code: object
    try:
        code = main(arguments)
    # What argparse refuses ends at once.
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_help_loads_neither_paho_nor_numpy():
    code = (
        "import sys\nfrom fedlearn.commands.collect import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print('LOADED', {'numpy', 'paho', 'cv2', 'torch'} & set(sys.modules))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert ended.stdout.splitlines()[-1] == "LOADED set()"


@needs_mosquitto
def test_a_folder_goes_to_a_topic_and_into_a_file(tmp_path, capsys):
    pytest.importorskip("paho.mqtt.client", reason="paho-mqtt is not installed")
    graphs.scaled(tmp_path / "m.onnx")
    (tmp_path / "in.csv").write_text("0,51,255\n255,0,0\n")
    out = tmp_path / "out"
    password = tmp_path / "password"
    password.write_text("any\n")
    password.chmod(0o600)
    with mosquitto(tmp_path) as server:
        broker = ["--broker", f"127.0.0.1:{server.port}"]
        source = ["--source", f"csv:{tmp_path / 'in.csv'}", "--to", "mqtt:site/a"]
        state = ["--state", str(tmp_path / "state")]
        stream = [str(tmp_path / "m.onnx"), *source, *state, *broker]
        # Nobody collects, so they wait here, and the command says so.
        assert infer([*stream, "--wait", "0.5", "--post", "top:1"]) == 3
        assert "2 answers are not collected yet" in capsys.readouterr().err
        finding = outbox_check.check(tmp_path / "state")
        assert finding.state == WELL and finding.figures["waiting"] == 2
        other = ["--source", f"csv:{tmp_path / 'in.csv'}", "--to", "mqtt:site/b"]
        assert infer([str(tmp_path / "m.onnx"), *other, *state, *broker]) == 2
        assert "2 answers for mqtt:site/a wait in" in capsys.readouterr().err
        command = [sys.executable, "-m", "fedlearn", "collect", "--from", "mqtt:site/+"]
        command += ["--to", str(out), "--broker-user", "me"]
        command += ["--broker-password", str(password), *broker]
        collecting = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            # The next run has nothing new, and takes the old answers along.
            assert infer([*stream, "--wait", "30", "--quiet"]) == 0
            collecting.send_signal(signal.SIGTERM)
            _, said = collecting.communicate(timeout=30)
        finally:
            collecting.kill()
            collecting.wait()
    assert collecting.returncode == 0 and "2 answers, " in said
    answers = [json.loads(line) for line in out.read_text().splitlines()]
    assert [answer["label"] for answer in answers] == ["high", "low"]
    assert {answer["topic"] for answer in answers} == {"site/a"}
    assert answers[0]["top"][0]["label"] == "high" and "output" not in answers[0]
    assert outbox_check.check(tmp_path / "state").figures["waiting"] == 0


def opened(folder, **facts):
    facts = {"to": "mqtt:a", "broker": "mqtt://b:1883", "outbox_bytes": 1000, **facts}
    state = stream_state.StreamState(folder)
    state.note(facts)
    state.close()
    return outbox.Outbox(folder / stream_state.OUTBOX)


def test_doctor_warns_of_a_broker_that_is_believed(tmp_path):
    box = opened(tmp_path, until="puback", outbox_bytes=10**6)
    finding = outbox_check.check(tmp_path)
    assert finding.state == NOTE and "run fedlearn collect" in finding.fix
    box.close()


def test_doctor_sees_a_full_outbox_and_what_it_lost(tmp_path):
    box = opened(tmp_path, until="collected")
    box.put([("k", json.dumps({"x": "y" * 900}))])
    assert outbox_check.check(tmp_path).state == NOTE
    outbox._write_facts(box.folder, box.id, 3)
    finding = outbox_check.check(tmp_path)
    assert finding.state == FAILS and "3 answers are lost" in finding.text
    box.close()


def test_doctor_of_other_folders(tmp_path):
    assert outbox_check.check(tmp_path).state == FAILS
    state = stream_state.StreamState(tmp_path)
    state.note({"to": "file:x"})
    state.close()
    assert outbox_check.check(tmp_path).state == SKIPPED
    (tmp_path / "stream.json").write_text("{")
    assert outbox_check.check(tmp_path).state == FAILS


def test_the_command_doctor_shows_it(tmp_path):
    opened(tmp_path, until="puback").close()
    command = [sys.executable, "-m", "fedlearn", "doctor", "--no-torch", "--json"]
    ended = subprocess.run(
        [*command, "--stream", str(tmp_path), "--state", str(tmp_path / "agent")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "80"},
    )
    checks = {check["name"]: check for check in json.loads(ended.stdout)["checks"]}
    assert checks["outbox"]["state"] == NOTE
