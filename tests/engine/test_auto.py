"""The engine that a measurement chooses: what it says, and that pinning it repeats the run."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from fedlearn.engine import auto
from fedlearn.plan import Plan
from tests.jobs import CONFIG, run

CNN = CONFIG.replace('"logistic"', '"cnn-small"')
PLAN = Plan(round=1, seed=0)


class Runs:
    """A runner whose clients can be stacked."""

    device, app = "cpu", None


@pytest.mark.parametrize(
    ("seen", "kind", "chunk"),
    [
        (
            {"pool": 100.0, "stacked 5": 90.0, "stacked 10": 40.0, "stacked 20": 60.0},
            "stacked",
            10,
        ),
        ({"pool": 100.0, "stacked 5": 90.0, "stacked 10": 86.0}, "pool", 0),
        ({"pool": 100.0}, "pool", 0),
    ],
)
def test_a_stack_must_gain_enough(seen, kind, chunk, monkeypatch):
    monkeypatch.setattr(auto, "Stacker", lambda *_: SimpleNamespace(not_stacked=""))
    monkeypatch.setattr(auto, "_estimates", lambda *_: seen)
    runner: Any = Runs()
    made = auto.choose(runner, PLAN, 20, 2)
    assert (made.kind, made.chunk, made.workers) == (kind, chunk, 2)
    assert made.facts()["estimated_ms"] == seen


def test_what_cannot_be_stacked_or_measured_goes_to_the_pool(monkeypatch):
    runner: Any = Runs()
    monkeypatch.setattr(
        auto, "Stacker", lambda *_: SimpleNamespace(not_stacked="it looks at values")
    )
    assert auto.choose(runner, PLAN, 20, 0) == auto.EngineChoice(
        "pool", 0, 0, "it looks at values"
    )
    monkeypatch.setattr(auto, "Stacker", lambda *_: SimpleNamespace(not_stacked=""))
    made = auto.choose(runner, PLAN, 20, 0)  # it has no model to measure
    assert made.kind == "pool" and "the probe failed: AttributeError" in made.reason
    runner.device = "cuda"
    assert auto.choose(runner, PLAN, 20, 0).kind == "stacked"


def test_the_probe_measures_the_experiment_itself_and_pinning_its_choice_repeats_the_run(
    tmp_path,
):
    found = run(tmp_path / "auto", config=CNN, engine="auto")
    assert found.code == 0
    manifest = json.loads((found.folder / "manifest.json").read_text())
    chosen = manifest["engine"]
    assert (
        chosen["kind"] in ("pool", "stacked")
        and found.summary["engine"] == chosen["kind"]
    )
    assert {"pool", "stacked 5"} <= manifest["auto"]["estimated_ms"].keys()
    assert all(ms > 0 for ms in manifest["auto"]["estimated_ms"].values())
    pinned = run(
        tmp_path / "pinned",
        f"engine.chunk={chosen['chunk']}",
        config=CNN,
        engine=chosen["kind"],
    )
    assert pinned.sha256 == found.sha256


@pytest.mark.parametrize(("first", "then"), [("stacked", "pool"), ("pool", "stacked")])
def test_a_resumed_run_keeps_its_engine_whatever_would_be_chosen_now(
    first, then, tmp_path, monkeypatch
):
    chunk = {"stacked": 3, "pool": 0}
    whole = run(
        tmp_path / "whole", f"engine.chunk={chunk[first]}", config=CNN, engine=first
    )
    monkeypatch.setattr(
        auto, "choose", lambda *_: auto.EngineChoice(first, chunk[first], 2, "first")
    )
    assert (
        run(tmp_path / "run", "experiment.rounds=1", config=CNN, engine="auto").code
        == 0
    )
    monkeypatch.setattr(
        auto, "choose", lambda *_: auto.EngineChoice(then, chunk[then], 1, "then")
    )
    resumed = run(tmp_path / "run", config=CNN, engine="auto", resume=True)
    assert resumed.code == 0
    assert resumed.sha256 == whole.sha256
    manifest = json.loads((resumed.folder / "manifest.json").read_text())
    assert manifest["auto"]["why"] == "first" and manifest["engine"]["kind"] == first
