"""The scenario of a wearable, played whole over its slow link: its claims are the assertions."""

import json

import numpy as np
import pytest

from fedlearn.commands import scenario
from fedlearn.errors import RunError
from fedlearn.scenarios import timeline, wearable
from fedlearn.scenarios.asking import DeviceAnswer


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_difference_comes_over_the_slow_link_and_a_bad_release_is_back(
    tmp_path, capsys
):
    folder = tmp_path / "w"
    assert scenario.main(["wearable", "--out", str(folder)]) == 0
    facts = json.loads((folder / "outcome.json").read_text())["facts"]
    assert facts["difference_bytes"] < facts["whole_bytes"] / 20
    # All that came, manifest and heartbeats among it; a chunk sent twice would have a kilobyte.
    assert facts["difference_bytes"] < facts["came_bytes"] < 7500
    assert facts["fetch_s"] >= 8 * facts["came_bytes"] / wearable.RATE - 1
    assert facts["back_s"] < wearable.WATCH_S
    assert facts["failed_requests"] == 0
    assert (folder / "scenario.png").read_bytes()[:4] == b"\x89PNG"
    assert "the link is cut" in capsys.readouterr().out


def test_whole_files_are_all_but_the_differences(tmp_path):
    (tmp_path / "deltas").mkdir()
    for name, size in (("weights.bin", 700), ("manifest.json", 50), ("deltas/a.fl", 9)):
        (tmp_path / name).write_bytes(bytes(size))
    assert wearable._whole_bytes(tmp_path) == 750


def test_a_request_that_failed_is_a_claim_that_does_not_hold():
    answers = [DeviceAnswer(0.0, 0, "1", True, status) for status in (200, 503)]
    assert wearable._requests(answers[:1]) == {"requests": 1, "failed_requests": 0}
    with pytest.raises(RunError, match=r"every question is answered \(1 were not\)"):
        wearable._requests(answers)


def test_the_watch_is_asked_held_out_windows_by_the_names_of_their_classes():
    questions = wearable._questions(0)
    assert questions.samples.shape == (561, 64, 6)
    assert set(questions.labels) == {str(label) for label in range(wearable.CLASSES)}


def test_the_picture_begins_at_its_moment(tmp_path):
    answers = [
        DeviceAnswer(float(at), 0, version, True, 200)
        for at, version in enumerate("1112223322")
    ]
    came = [(float(at), 100) for at in np.arange(0, 9, 0.5)]
    path = tmp_path / "link.png"
    timeline.draw_link(path, "a link", came, answers, [(3.0, "on trial")], 2.0)
    assert path.read_bytes()[:4] == b"\x89PNG"
