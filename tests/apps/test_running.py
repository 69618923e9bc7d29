"""Whole Flower apps: the same results as Flower's own loop over a plain Grid."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedlearn import flower
from fedlearn.apps import start
from fedlearn.apps.api import run_app
from fedlearn.apps.options import read as read_options
from fedlearn.errors import ConfigError, RunError
from tests.apps import plain
from tests.apps.plain import SAMPLES

CODED = ("codec.up=eden1", "codec.down=q8")


def ran(name, path, changes=None, resume=False, sets=(), **options):
    """Run a sample app and return its summary."""
    engine = read_options(sets)
    started = start.of_options(
        SAMPLES / name, changes=changes, options=engine, **options
    )
    return run_app(started, path, resume=resume, quiet=True).summary


def lines(path):
    texts = (path / "metrics.jsonl").read_text().splitlines()
    return [json.loads(text) for text in texts]


@pytest.mark.parametrize("name", ["advanced", "regression", "boosting", "faults"])
def test_an_app_gives_what_flowers_own_loop_gives(name, tmp_path):
    summary = ran(name, tmp_path / "run", workers=2)
    result = plain.run(name) if name != "faults" else None
    arrays = load_file(tmp_path / "run" / summary["result"])
    if result is None:
        # os._exit in the oracle would end the test.
        assert arrays["0"].tolist() == [1, 1, 1]
        return
    # The file has them by dtype.
    assert set(arrays) == set(result.arrays)
    for key, array in result.arrays.items():
        np.testing.assert_allclose(arrays[key], array.numpy(), rtol=1e-5, atol=1e-6)
    by_round = {line["round"]: line for line in lines(tmp_path / "run")}
    for kind, rounds in (
        ("train", result.train_metrics_clientapp),
        ("evaluate", result.evaluate_metrics_clientapp),
        ("server", result.evaluate_metrics_serverapp),
    ):
        told = {r: line[kind] for r, line in by_round.items() if line[kind]}
        assert told == {r: pytest.approx(dict(m)) for r, m in rounds.items()}


@pytest.mark.parametrize("name", ["analytics", "vertical"])
def test_an_own_loop_gives_what_flowers_own_loop_gives(name, tmp_path):
    outs = [tmp_path / "ours.json", tmp_path / "plain.json"]
    summary = ran(name, tmp_path / "run", {"out": str(outs[0])}, workers=2)
    plain.run(name, out=str(outs[1]))
    ours, expected = [json.loads(out.read_text()) for out in outs]
    if name == "vertical":
        assert ours == pytest.approx(expected, rel=1e-5)
    else:
        assert ours == expected
    assert summary["model_sha256"] is None
    assert summary["failed"] == 0


def test_a_torch_app_gives_what_flowers_own_loop_gives(tmp_path):
    changes = {"num-server-rounds": 2, "loader-workers": 1}
    summary = ran("quickstart", tmp_path / "run", changes, workers=2)
    result = plain.run("quickstart", **changes)
    arrays = load_file(tmp_path / "run" / summary["result"])
    for key, array in result.arrays.items():
        np.testing.assert_allclose(arrays[key], array.numpy(), rtol=1e-5, atol=1e-5)
    last = dict(result.evaluate_metrics_serverapp[2])
    assert summary["server"] == pytest.approx(last, abs=1e-5)


def test_a_client_that_fails_is_its_messages_error(tmp_path):
    summary = ran("faults", tmp_path / "run", workers=2)
    failures = lines(tmp_path / "run")[0]["failures"]
    assert failures == {
        "1001": "KeyError: 'no such column'",
        "1002": "SystemExit: enough",
        "1003": "the ClientApp's process ended with code 7, twice",
        "1004": "the app's function for 'train' returned str; "
        "it must return a Message(…, reply_to=…)",
    }
    assert summary["failed"] == 8
    assert summary["messages"] == 12


def test_one_worker_or_three_give_the_same(tmp_path):
    hashes = set()
    for workers in (1, 3):
        summary = ran("advanced", tmp_path / str(workers), workers=workers)
        hashes.add((summary["model_sha256"], summary["messages_sha256"]))
    assert len(hashes) == 1


def test_another_seed_gives_another_model(tmp_path):
    first = ran("advanced", tmp_path / "a", {"num-server-rounds": 1})
    second = ran("advanced", tmp_path / "b", {"num-server-rounds": 1}, seed=1)
    assert first["model_sha256"] != second["model_sha256"]


def test_what_the_app_prints_and_logs_is_in_its_log(tmp_path):
    # As a run of our own training does, which may have come before in this process.
    flower.enter()
    ran("advanced", tmp_path / "run", {"num-server-rounds": 1})
    log = (tmp_path / "run" / "app.log").read_text()
    # Of a worker, of Flower's logger in it, of the ServerApp, and of Flower's in that.
    for text in (
        "lifespan begins",
        "mod saw train",
        "best (",
        "Starting Halving strategy",
    ):
        assert text in log


COMMAND = [sys.executable, "-m", "fedlearn", "run"]


@pytest.mark.parametrize(
    ("name", "point", "sets"),
    [
        # Answers that come together are synced together: at least once in each exchange.
        ("advanced", "journal.before-sync=kill@2", ()),
        ("advanced", "journal.after-sync=kill@9", ()),
        ("vertical", "journal.after-sync=kill@5", ()),
        ("analytics", "journal.after-sync=kill@2", ()),
        ("wide", "journal.after-sync=kill@3", CODED),
        ("wide", "journal.after-sync=kill@5", (*CODED, "codec.first=q4")),
    ],
)
def test_a_killed_run_goes_on_to_the_same(name, point, sets, tmp_path):
    expected = ran(name, tmp_path / "whole", sets=sets)
    out = tmp_path / "killed"
    environment = {**os.environ, "FEDLEARN_FAILPOINTS": point}
    options = ["--out", str(out), "--quiet"]
    engine = [f"--set={text}" for text in sets]
    command = [*COMMAND, str(SAMPLES / name), *options, *engine]
    killed = subprocess.run(command, env=environment)
    assert killed.returncode == -signal.SIGKILL
    assert subprocess.run([*COMMAND, "--resume", *options]).returncode == 0
    summary = json.loads((out / "summary.json").read_text())
    for key in ("model_sha256", "messages_sha256", "messages", "bytes_up", "rounds"):
        assert summary[key] == expected[key]
    assert [line["round"] for line in lines(out)] == [
        line["round"] for line in lines(tmp_path / "whole")
    ]
    assert not (out / "journal").exists()


def test_workers_end_with_a_run_that_is_killed(tmp_path):
    # A worker sleeps, and reads nothing.
    command = [*COMMAND, str(SAMPLES / "slow"), "--out", str(tmp_path / "run")]
    run = subprocess.Popen([*command, "--workers", "2"], stdout=subprocess.DEVNULL)
    log = tmp_path / "run" / "app.log"
    while not log.exists() or log.read_text().count("pid ") < 2:
        assert run.poll() is None
        time.sleep(0.05)
    pids = [
        int(line.split()[1]) for line in log.read_text().splitlines() if "pid" in line
    ]
    run.kill()
    run.wait()
    while any(_lives(pid) for pid in pids):
        time.sleep(0.05)


def test_a_worker_that_is_killed_once_costs_nothing(tmp_path):
    marker = tmp_path / "marker"
    expected = ran("fragile", tmp_path / "a", workers=1)
    summary = ran("fragile", tmp_path / "b", {"marker": str(marker)}, workers=1)
    assert marker.exists()
    assert summary["failed"] == 0
    # What the app was told differs by the marker alone, what it answered does not.
    assert summary["messages_sha256"] == expected["messages_sha256"]


def _lives(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_an_app_that_is_not_deterministic_is_told_which_message_differs(tmp_path):
    out = tmp_path / "run"
    environment = {**os.environ, "FEDLEARN_FAILPOINTS": "journal.after-sync=kill@2"}
    command = [*COMMAND, str(SAMPLES / "timely"), "--out", str(out), "--quiet"]
    subprocess.run(command, env=environment)
    with pytest.raises(RunError) as raised:
        run_app(start.of_folder(out), out, resume=True, quiet=True)
    assert "message 1 ('query' to node 1000)" in str(raised.value)
    assert "its record 'when' differs" in str(raised.value)


def test_codecs_send_fewer_bytes_and_the_model_stays_near(tmp_path):
    changes = {"num-server-rounds": 3}
    exact = ran("wide", tmp_path / "exact", changes)
    coded = ran("wide", tmp_path / "coded", changes, sets=CODED)
    assert coded["bytes_up"] < exact["bytes_up"] / 20
    # The first round goes whole, the two others in 8 bits for 32.
    assert coded["bytes_down"] < 0.51 * exact["bytes_down"]
    assert coded["bytes_raw"] == pytest.approx(exact["bytes_raw"], rel=0.01)
    a = load_file(tmp_path / "exact" / "result.safetensors")["w"]
    b = load_file(tmp_path / "coded" / "result.safetensors")["w"]
    # The exact run brings it from 0 to 1.
    assert np.abs(a - 1).max() < 1e-5
    assert np.abs(b - 1).mean() < 0.1
    again = ran("wide", tmp_path / "again", changes, sets=CODED, workers=1)
    assert again["messages_sha256"] == coded["messages_sha256"]
    first = ran("wide", tmp_path / "first", changes, sets=(*CODED, "codec.first=q8"))
    assert first["bytes_down"] < 0.26 * exact["bytes_down"]
    assert first["codec"]["first"] == "q8"
    c = load_file(tmp_path / "first" / "result.safetensors")["w"]
    assert np.abs(c - 1).mean() < 0.1


def test_codecs_that_are_chosen_are_named_in_the_summary(tmp_path):
    summary = ran(
        "wide",
        tmp_path / "run",
        {"num-server-rounds": 1},
        sets=("codec.up=auto", "codec.down=auto"),
    )
    assert summary["codec"]["up"] == "eden1"
    assert summary["codec"]["why"]


def test_a_folder_of_another_run_is_refused(tmp_path):
    ran("regression", tmp_path / "run", {"num-server-rounds": 1})
    with pytest.raises(ConfigError, match="is finished"):
        ran("regression", tmp_path / "run", resume=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(ConfigError, match="is not empty"):
        ran("regression", tmp_path / "other")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("oldserver", r"has no @app.main\(\): a ServerApp\(server_fn=…\)"),
        ("broken", "importing 'broken.client_app' raised ModuleNotFoundError"),
    ],
)
def test_an_app_that_cannot_run_is_one_line(name, text, tmp_path):
    with pytest.raises(ConfigError, match=text):
        ran(name, tmp_path / "run")


def test_a_server_app_that_raises_is_one_line_with_its_place(tmp_path):
    with pytest.raises(RunError) as raised:
        ran("regression", tmp_path / "run", {"num-server-rounds": "three"})
    text = str(raised.value)
    assert "the ServerApp raised TypeError" in text
    assert "(reg/server_app.py, line 12)" in text
    assert "Traceback" in (tmp_path / "run" / "app.log").read_text()


def test_the_python_api_runs_an_app(tmp_path):
    import fedlearn as fl

    run = fl.run(
        SAMPLES / "regression",
        {"num-server-rounds": 1},
        out=tmp_path / "run",
        nodes=2,
        quiet=True,
    )
    assert run.summary["nodes"] == 2
    assert run.folder == tmp_path / "run"
    with pytest.raises(ConfigError, match="brings its own"):
        fl.run(SAMPLES / "regression", out=tmp_path / "b", model="cnn")
    with pytest.raises(ConfigError, match="folder of a Flower app"):
        fl.run("default", nodes=3)


def test_an_old_client_runs_through_flowers_own_adapter(tmp_path):
    summary = ran("oldclient", tmp_path / "run")
    # Two nodes add 0 and 1: their mean is 0.5 more in each round, of two values.
    log = (tmp_path / "run" / "app.log").read_text()
    assert "losses [(1, 1.0), (2, 2.0)]" in log
    assert (summary["messages"], summary["failed"]) == (8, 0)


def test_a_state_that_cannot_be_kept_is_its_nodes_failure(tmp_path):
    with pytest.raises(RunError, match="all 2 messages of hoarder failed"):
        ran("hoarder", tmp_path / "run")
    failures = lines(tmp_path / "run")[0]["failures"]
    assert all("Flower cannot carry" in reason for reason in failures.values())


def test_an_app_that_waits_for_more_nodes_ends(tmp_path, monkeypatch):
    monkeypatch.setattr("fedlearn.apps.grid._WAIT_S", 0.0)
    with pytest.raises(RunError, match="waits for more nodes than the 1 of this run"):
        ran("regression", tmp_path / "run", nodes=1)
