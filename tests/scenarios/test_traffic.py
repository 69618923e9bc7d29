"""The scenario traffic, shortened: a real camera's folder, a real broker, a real kill."""

import json
import shutil
from collections import Counter

import pytest

from fedlearn.errors import RunError
from fedlearn.scenarios import broker, roads, traffic
from fedlearn.scenarios.crossing_plot import CountWindow
from fedlearn.scenarios.players import Troupe

SIZE = traffic.TrafficSize(rounds=1, vehicles=60, rate=30.0)

# It starts a dozen processes: a busy machine needs longer than the usual limit.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scene")
    lines: list[str] = []
    outcome = traffic.play_sized(folder, 0, lines.append, SIZE)
    return folder, outcome, lines


def test_counts_over_a_kill_are_those_of_a_batch(scene):
    folder, outcome, lines = scene
    facts = outcome.facts
    assert facts["counted"] == facts["passed"] == 60
    assert facts["lost"] == facts["counted_twice"] == 0
    assert sum(facts[f"counted_{name}"] for name in roads.CLASSES) == 60
    assert any("kill -9" in line for line in lines)
    assert outcome.picture.read_bytes().startswith(b"\x89PNG")
    assert facts["over"] == ("file" if broker.missing() else "mqtt")
    assert traffic.total(folder / traffic.COUNTS) == 60


def test_without_a_broker_counts_go_to_a_file(scene, tmp_path, monkeypatch):
    shutil.copytree(scene[0] / "traffic", tmp_path / "traffic")
    monkeypatch.setattr(broker, "missing", lambda: "mosquitto is not installed")
    lines: list[str] = []
    with Troupe(tmp_path, lines.append) as troupe:
        counted = traffic.Crossing(troupe, lines.append).count(SIZE, 1)
    assert counted.over == "file"
    assert counted.came_twice == 0
    assert traffic.total(tmp_path / traffic.COUNTS) == 60
    assert "mosquitto is not installed: counts go to a file, without a broker" in lines


def test_a_lost_vehicle_is_named():
    window = CountWindow(0.0, {"car": 2})
    facts = {"passed": 3, "counted": 2}
    with pytest.raises(RunError, match="those of a batch without one"):
        traffic.check_counts(facts, [window], Counter({"car": 3}))
    with pytest.raises(RunError, match="all 3 vehicles are counted once; 2 are"):
        traffic.check_counts(facts, [window], Counter({"car": 2}))


def test_a_line_that_is_half_there_is_left_for_later(tmp_path):
    line = json.dumps({"time": "2026-11-30T18:49:37.436Z", "count": {"car": 2}})
    path = tmp_path / "c.jsonl"
    path.write_text(f"{line}\n{line[:20]}")
    assert traffic.total(path) == 2
