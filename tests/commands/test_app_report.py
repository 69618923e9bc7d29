"""``fedlearn report`` and ``fedlearn status`` of the runs of Flower apps."""

import csv
import io
import json
import shutil

import pytest

from fedlearn.commands import report, status
from tests.apps.making import ran, write

LOOP = """
    from flwr.app import Array
    import numpy as np
    from flwr.serverapp.strategy import FedAvg
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=1)
    strategy.start(
        grid, ArrayRecord({"w": Array(np.zeros(3, np.float32))}), 3,
        evaluate_fn=lambda r, a: MetricRecord({"score $_": r / 2, "nan": float("nan")}),
    )
"""

TRAIN = """
    return Message(RecordDict({"m": MetricRecord(metrics)}), reply_to=msg)


@app.train()
def train(msg, context):
    if context.node_config["partition-id"] == 1:
        raise KeyError("label")
    metrics = MetricRecord({"loss": 0.5, "num-examples": 2})
    content = RecordDict({"arrays": msg.content["arrays"], "metrics": metrics})
    return Message(content, reply_to=msg)


def unused(msg, metrics):
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("apps")
    ran(write(folder / "app", LOOP, TRAIN), folder / "run")
    return folder / "run"


def test_status_has_the_apps_own_metrics(run, capsys):
    assert status.main([str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    facts = dict(line.split(None, 1) for line in lines)
    assert facts["app"] == "odd"
    assert facts["state"] == "finished"
    assert facts["round"].startswith("3 done")
    assert facts["messages"] == "6, 3 failed"
    assert facts["failures"].endswith("node 1001 in round 1: KeyError: 'label'")
    assert facts["train"] == "loss 0.500"
    assert facts["server"].startswith("score $_ 1.500")
    assert status.main([str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["train"] == {"loss": 0.5}


def test_status_of_a_run_that_was_stopped_says_how_to_go_on(run, tmp_path, capsys):
    other = tmp_path / "a run"
    shutil.copytree(run, other)
    (other / "summary.json").unlink()
    assert status.main([str(other)]) == 0
    shown = capsys.readouterr().out
    assert "stopped" in shown
    assert f"fedlearn run --resume --out '{other}'" in shown
    # It may have been killed in its first round, or its files may be damaged.
    (other / "metrics.jsonl").unlink()
    (other / "app.json").write_text("{")
    assert status.main([str(other)]) == 0
    assert "0 done" in capsys.readouterr().out


def test_status_of_a_run_over_agents_has_them(run, tmp_path, capsys):
    other = tmp_path / "served"
    shutil.copytree(run, other)
    (other / "summary.json").unlink()
    about = json.loads((other / "app.json").read_text())
    (other / "app.json").write_text(json.dumps({**about, "agents": True}))
    event = {"time": "2026-11-30T12:00:00.000Z", "event": "declined", "client": 1}
    event |= {"key": "7/app/0", "text": "to allow it: --apps odd"}
    (other / "fleet.log").write_text(json.dumps(event) + "\n")
    assert status.main([str(other)]) == 0
    shown = capsys.readouterr().out
    assert f"fedlearn serve --resume --out {other} and the options" in shown
    facts = dict(line.split(None, 1) for line in shown.splitlines() if " " in line)
    assert facts["agents"] == "0 attend"
    assert facts["counted"] == "1 declined"
    # Its key has the number of a message, and no round.
    (line,) = [line for line in shown.splitlines() if "to allow it" in line]
    assert "client 1" in line
    assert "round" not in line


def test_report_draws_the_page_again(run, tmp_path, capsys):
    page = run / "report.html"
    page.unlink()
    assert report.main([str(run)]) == 0
    shown = capsys.readouterr()
    heading, row = shown.out.splitlines()
    assert "server score $_" in heading
    assert row.split()[:4] == ["odd", "3", "6", "3"]
    text = page.read_text()
    for part in ("loss", "score $_", "Payloads as they", "messages failed", "KeyError"):
        assert part in text
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    out = tmp_path / "page.html"
    assert report.main([str(run), "--out", str(out)]) == 0
    assert out.is_file()
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*")}


def test_report_compares_runs_of_apps(run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    other = tmp_path / "other"
    shutil.copytree(run, other)
    (other / "summary.json").unlink()
    assert report.main([str(run), str(other)]) == 0
    shown = capsys.readouterr().out
    assert f"odd ({run})" in shown
    assert f"odd ({other}) (unfinished)" in shown
    assert "score $_" in (tmp_path / "comparison.html").read_text()
    assert report.main([str(run), str(other), "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["train.loss"] for row in rows] == ["0.5", "0.5"]
    assert rows[0]["bytes_up"] == rows[1]["bytes_up"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--target", "0.5"], "--target is for experiments"),
        (["--profile"], "--profile is for experiments"),
        (["{other}"], "is the run of a Flower app, and"),
        (["{empty}"], "holds no finished round yet"),
    ],
)
def test_what_a_report_of_apps_cannot_do_is_one_line(
    run, options, message, tmp_path, capsys
):
    (tmp_path / "other").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "app.json").write_text("{}")
    places = {"other": tmp_path / "other", "empty": tmp_path / "empty"}
    options = [option.format(**places) for option in options]
    assert report.main([str(run), *options]) == 2
    assert message in capsys.readouterr().err
