"""A small chaos run: agents and coordinator killed, connections cut, and the model of an undisturbed simulation."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(300)  # 15 s where there are two idle cores
@pytest.mark.parametrize(("up", "down"), [("ef+eden1", "eden1")])
def test_a_fleet_in_chaos_gives_what_a_simulation_gives(up, down, tmp_path):
    command = [sys.executable, "-m", "fedlearn.experiments.benchmarks.chaos", str(tmp_path), "--agents", "4", "--rounds", "5"]
    much = ["--kills", "3", "--agent-kills", "0.3", "--limit-s", "270", "--up", up, "--down", down]
    ended = subprocess.run([*command, *much], cwd=ROOT, capture_output=True, text=True, timeout=290)
    assert (ended.returncode, ended.stderr) == (0, "")  # 3 for another model than the simulation's
    told = json.loads(ended.stdout)
    assert told["coordinators"] == 1 + told["coordinator_kills"]
    assert told["model_sha256"] == json.loads((tmp_path / "simulated" / "summary.json").read_text())["model_sha256"]
