"""Small chaos runs: agents and coordinator killed, connections cut, frames turned round, and
the model of a simulation.
"""

import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from fedlearn.errors import RunError
from fedlearn.experiments.benchmarks.chaos import check_counts
from fedlearn.server.journal import Journal

ROOT = Path(__file__).parents[2]


def chaos(folder, *arguments):
    """Run the benchmark and return what its lines tell; it fails where a run is not what it
    should be.
    """
    command = [
        sys.executable,
        "-m",
        "fedlearn.experiments.benchmarks.chaos",
        str(folder),
        "--limit-s",
        "250",
        *map(str, arguments),
    ]
    ended = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=280
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    return [json.loads(line) for line in ended.stdout.splitlines()]


def test_a_nursery_has_what_its_processes_import():
    """Without, each of a fleet's processes imports torch, and a run of seconds takes minutes."""
    script = (
        "import sys; from fedlearn.experiments.benchmarks.chaos import IMPORTED, warm; warm(); "
        "print({'torch', 'grpc', 'numpy.ma', *IMPORTED} - set(sys.modules))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True
    )
    assert ended.stdout == "set()\n", ended.stderr


@pytest.mark.slow
@pytest.mark.timeout(300)  # 10 s where there are two idle cores
def test_a_fleet_in_chaos_gives_what_a_simulation_gives(tmp_path):
    (told,) = chaos(
        tmp_path,
        "--agents",
        4,
        "--rounds",
        5,
        "--kills",
        3,
        "--kill-s",
        0.3,
        "--agent-kills",
        0.3,
    )
    assert told["coordinators"] == 1 + told["coordinator_kills"]
    assert told["counted"] == 4 * 5 and told["twice"]
    assert (
        told["model_sha256"]
        == json.loads((tmp_path / "simulated" / "summary.json").read_text())[
            "model_sha256"
        ]
    )


@pytest.mark.slow
@pytest.mark.timeout(300)  # 15 s where there are two idle cores
def test_a_fleet_that_agents_leave_for_ever_gives_what_a_simulation_of_the_others_gives(
    tmp_path,
):
    # With this seed the agent leaves after the second of many rounds: also where a round takes
    # milliseconds it is missed.
    (told,) = chaos(
        tmp_path,
        "--agents",
        4,
        "--rounds",
        15,
        "--seed",
        1,
        "--kills",
        1,
        "--agent-kills",
        0,
        "--leave",
        0.25,
    )
    assert told["left"] == 1 and told["counted"] < 4 * 15
    assert (
        told["model_sha256"]
        != json.loads((tmp_path / "simulated" / "summary.json").read_text())[
            "model_sha256"
        ]
    )


@pytest.mark.timeout(300)  # 10 s where there are two idle cores
def test_killed_at_a_failpoint_again_and_again_everything_is_counted_once(tmp_path):
    points = ["agent.half-answer", "coordinator.before-closed"]
    told = chaos(
        tmp_path, "--agents", 2, "--rounds", 4, "--times", 2, "--failpoints", *points
    )
    assert [line["point"] for line in told] == points and all(
        line["struck"] >= 2 for line in told
    )


def test_a_point_that_is_mistyped_is_told(tmp_path):
    command = [
        sys.executable,
        "-m",
        "fedlearn.experiments.benchmarks.chaos",
        str(tmp_path),
        "--failpoints",
        "agent.sented",
    ]
    ended = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert (
        ended.returncode == 2
        and "agent.sented" in ended.stderr
        and "agent.sent" in ended.stderr
    )
    assert len(ended.stderr.splitlines()) == 1


# That the checks would notice.


def recorded(folder, answers, counted, ledger="begin 1/train/0\nstored 1/train/0\n"):
    """Make what a run of one agent and one round leaves: answers and counted clients by their
    keys.
    """
    (folder / "agents" / "0").mkdir(parents=True)
    (folder / "agents" / "0" / "ledger").write_text(ledger)
    with closing(Journal(folder / "run" / "journal")) as journal:
        for key in answers:
            journal.append({"kind": "answer", "key": key}, b"bytes")
        for key, clients in counted:
            journal.append({"kind": "closed", "key": key}, json.dumps(clients).encode())
    return folder


ANSWER, CLOSED = "0/1/train/0", ("closed/1/train/1", [0])


def test_an_answer_that_is_stored_counted_and_promised_once_is_right(tmp_path):
    assert check_counts(recorded(tmp_path, [ANSWER], [CLOSED]), 1, 1) == 1


@pytest.mark.parametrize(
    ("answers", "counted", "ledger", "words"),
    [
        ([ANSWER, ANSWER], [CLOSED], "", "stored or counted twice: 0/1/train/0"),
        ([ANSWER], [CLOSED, CLOSED], "", "stored or counted twice: 0/1/train/0"),
        ([], [CLOSED], "", "counted and never stored: 0/1/train/0"),
        ([ANSWER], [("closed/1/train/1", [])], "", "not counted: 0/1/train/0"),
        (
            [ANSWER],
            [CLOSED],
            "stored 2/train/0\n",
            "2/train/0 was acknowledged and is not in the journal",
        ),
        (
            [ANSWER],
            [CLOSED],
            "stored 1/train/0\nbegin 1/train/0\n",
            "1/train/0 was acknowledged and asked for again",
        ),
    ],
)
def test_what_was_lost_or_doubled_is_told(tmp_path, answers, counted, ledger, words):
    with pytest.raises(RunError, match=words):
        check_counts(recorded(tmp_path, answers, counted, ledger), 1, 1)
