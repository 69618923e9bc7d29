"""``experiment.stop_at``: a run ends with the accuracy it is to reach, and a resumed one agrees."""

import pytest

from fedlearn.runs.status import of_folder
from tests.jobs import run


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run(tmp_path_factory.mktemp("whole") / "run", "experiment.rounds=8")


@pytest.fixture
def target(whole):
    """Return an accuracy that is first reached in the middle of the run, and the round."""
    best = [
        max(line["accuracy"] for line in whole.lines[: i + 1])
        for i in range(len(whole.lines))
    ]
    stop = next(i for i in range(2, 7) if best[i] > best[i - 1])
    return best[stop], stop


def test_a_run_ends_with_its_accuracy_and_is_finished(whole, target, tmp_path):
    accuracy, stop = target
    ended = run(
        tmp_path / "run",
        "experiment.rounds=8",
        f"experiment.stop_at={accuracy}",
        "experiment.checkpoint_every=5",
    )
    assert (ended.code, ended.summary["rounds"]) == (0, stop)
    assert [line["accuracy"] for line in ended.lines] == [
        line["accuracy"] for line in whole.lines[: stop + 1]
    ]
    assert of_folder(ended.folder).state == "finished"
    again = run(
        tmp_path / "run",
        "experiment.rounds=8",
        f"experiment.stop_at={accuracy}",
        resume=True,
    )
    assert (again.code, again.sha256, len(again.lines)) == (
        0,
        ended.sha256,
        len(ended.lines),
    )


def test_the_rest_can_be_run_later(whole, target, tmp_path):
    run(tmp_path / "run", "experiment.rounds=8", f"experiment.stop_at={target[0]}")
    assert (
        run(
            tmp_path / "run",
            "experiment.rounds=8",
            "experiment.stop_at=0.0",
            resume=True,
        ).sha256
        == whole.sha256
    )


def test_a_run_that_is_past_the_accuracy_is_refused(target, tmp_path, capsys):
    accuracy, stop = target
    run(tmp_path / "run", "experiment.rounds=8")
    assert (
        run(
            tmp_path / "run",
            "experiment.rounds=8",
            f"experiment.stop_at={accuracy}",
            resume=True,
        ).code
        == 2
    )
    assert (
        f"was reached in round {stop}, and 8 rounds are done; leave experiment.stop_at as it was"
        in capsys.readouterr().err
    )


def test_an_accuracy_that_is_never_reached_changes_nothing(whole, tmp_path):
    assert (
        run(tmp_path / "run", "experiment.rounds=8", "experiment.stop_at=1.0").sha256
        == whole.sha256
    )
