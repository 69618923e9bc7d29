"""Other frameworks beside ours: the machinery around them, with stand-ins for the frameworks."""

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedlearn import models
from fedlearn.experiments.benchmarks.peers import __main__ as command
from fedlearn.experiments.benchmarks.peers import environments, race, running, tables
from fedlearn.experiments.benchmarks.peers.scripts import seam, textbook
from fedlearn.experiments.benchmarks.workloads import WORKLOADS

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/smaps_rollup").exists(), reason="reads Linux's /proc"
)

COMPETITOR = """
import os, subprocess, sys
sys.path.insert(0, {scripts!r})
import seam
print("a library that is imported early")
turns = seam.Turns()
print("a library that talks on standard output")
{before}
for number in turns.rounds({parameters}, 1):
    {each}
"""


def stand_in(folder, each="pass", before="", parameters=13_706):
    file = folder / f"stand_in_{len(list(folder.iterdir()))}.py"
    scripts = str(environments.HERE / "scripts")
    file.write_text(
        COMPETITOR.format(
            scripts=scripts, before=before, each=each, parameters=parameters
        )
    )
    return [sys.executable, str(file)]


@pytest.fixture
def field():
    made = race.Field(WORKLOADS["W1"])
    yield made
    made.close()


def entry(**changes):
    told: dict[str, Any] = {
        "workload": "W1",
        "competitor": "one",
        "ms": 12.34,
        "ratio": 0.5,
        "cores": 1.5,
        "startup_s": 2.0,
        "memory_mb": 99.6,
    }
    return race.Entry(**(told | changes))


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_textbooks_models_are_ours(name):
    data = WORKLOADS[name].population()
    ours = models.build(
        WORKLOADS[name].model,
        {},
        input_shape=data.input_shape,
        classes=data.classes,
        seed=0,
        modality=data.modality,
    )
    assert textbook.parameters(textbook.MODELS[name]()) == models.layout(ours).trained


def test_a_workload_is_read_as_it_was_written(tmp_path):
    clients = [(np.full((n, 2), n, np.float32), np.arange(n)) for n in (3, 1, 2)]
    seam.write(str(tmp_path / "w.npz"), "W9", 2, 5, 7, clients)
    work = seam.Work(str(tmp_path / "w.npz"))
    assert (work.name, work.cohort, work.batch_size, work.rounds) == ("W9", 2, 5, 7)
    for (x, y), (found_x, found_y) in zip(clients, work.clients, strict=True):
        assert (
            (found_x == x).all()
            and (found_y == y).all()
            and found_x.dtype == np.float32
        )
    assert work.draw(1) == work.draw(1) and len(set(work.draw(1))) == 2


def test_a_competitor_does_a_round_a_turn(tmp_path):
    process = running.Running(
        stand_in(
            tmp_path,
            each=f"open({str(tmp_path / 'rounds')!r}, 'a').write(f'{{number}} ')",
        )
    )
    try:
        assert process.told == {"parameters": 13_706, "threads": 1}
        assert process.round() >= 0 and process.round() >= 0
        assert 1 < process.memory_mb() < 500
    finally:
        process.close()
    assert (tmp_path / "rounds").read_text() == "0 1 2 "


def test_a_competitors_children_are_measured_and_end_with_it(tmp_path):
    child = "import time; held = bytearray(50_000_000); print(1, flush=True); time.sleep(60)"
    sleeper = f"subprocess.Popen([sys.executable, '-c', {child!r}], stdout=-1).stdout.readline()"
    process = running.Running(stand_in(tmp_path, before=sleeper))
    assert len(running.members(process.process.pid)) == 2 and process.memory_mb() > 50
    process.close()
    until = time.monotonic() + 10
    while (
        left := running.members(process.process.pid)
    ) and time.monotonic() < until:  # what is killed goes when the system has time
        time.sleep(0.01)
    assert not left


@pytest.mark.parametrize(
    ("stand", "why"),
    [
        ({"before": "turns.refuse('no LSTM')"}, "no LSTM"),
        (
            {"before": "import a_peer_that_is_not_there"},
            "ModuleNotFoundError: No module named 'a_peer_that_is_not_there'",
        ),
        ({"before": "os._exit(7)"}, "a library that talks on standard output"),
        ({"parameters": 14_000}, "another model: 14,000 parameters, not 13,706"),
    ],
)
def test_who_cannot_take_part_says_why(tmp_path, field, stand, why):
    field.admit("one", stand_in(tmp_path, **stand), starts=1)
    assert field.entry("one") == race.Entry("W1", "one", absent=why)


def test_who_fails_in_the_middle_leaves_the_others_racing(tmp_path, field):
    field.admit(race.LEAN, stand_in(tmp_path), starts=2)
    field.admit("one", stand_in(tmp_path, each="1 / (3 - number)"), starts=1)
    field.admit("two", [], starts=1)
    for turn in range(5):
        field.turn(counts=turn > 0)
    assert field.entry("one").absent == "ZeroDivisionError: division by zero"
    assert field.entry("two").absent == "not installed"
    assert len(field.taken[race.LEAN]) == 4 and field.entry(race.LEAN).ratio == 1.0


def test_ratios_are_medians_of_pairs(tmp_path, field):
    for name in (race.LEAN, "one"):
        field.admit(name, stand_in(tmp_path), starts=1)
    field.taken = {race.LEAN: [0.1, 0.2, 0.4], "one": [0.3, 0.2, 0.8]}
    assert field.entry("one").ratio == 2.0 and field.entry("one").ms == 300.0


def test_a_peer_without_an_environment_of_the_present_list_is_not_installed(tmp_path):
    assert not environments.installed(tmp_path, "pfl")
    (tmp_path / "pfl").mkdir()
    (tmp_path / "pfl" / "made-from.txt").write_text("pfl==0.0.1\n")
    assert not environments.installed(tmp_path, "pfl")
    (tmp_path / "pfl" / "made-from.txt").write_text(
        (environments.HERE / "requirements" / "pfl.txt").read_text()
    )
    assert environments.installed(tmp_path, "pfl")


def test_every_peer_has_a_list_a_script_and_entries():
    for folder, pattern in (("requirements", "{}.txt"), ("scripts", "with_{}.py")):
        assert all(
            (environments.HERE / folder / pattern.format(peer)).is_file()
            for peer in environments.PEERS
        )
    assert set(race.PEERS) == set(environments.PEERS)


def test_tables_show_numbers_or_the_reason():
    entries = [entry(), entry(competitor="two", absent="not installed")]
    assert tables.plain(entries).splitlines()[2].split() == [
        "one",
        "12.3",
        "0.50",
        "1.5",
        "2.0",
        "100",
    ]
    assert tables.plain(entries).splitlines()[3].endswith("  not installed")
    assert tables.markdown(entries).splitlines()[2:] == [
        "| one | 12.3 | 0.50 | 1.5 | 2.0 | 100 |",
        "| two | not installed |  |  |  |  |",
    ]


@pytest.mark.parametrize("count", [1, 2])
def test_the_plot_is_written(tmp_path, count):
    tables.plot(
        tmp_path / "p.png",
        [[entry(), entry(competitor="far", ratio=33.0), entry(absent="not installed")]]
        * count,
    )
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["W5"], "no workload W5; there are W1"),
        (["--rounds", "4"], "below 5"),
        (["--starts", "0"], "below 1"),
    ],
)
def test_mistakes_are_one_line(capsys, arguments, said):
    assert command.main(arguments) == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_our_own_engine_and_a_loop_take_part(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(race, "LOOPS", {race.LEAN: race.LOOPS[race.LEAN]})
    assert (
        command.main(
            [
                "W1",
                "--rounds",
                "5",
                "--starts",
                "1",
                "--engines",
                "serial",
                "--envs",
                str(tmp_path),
                "--peers",
                "pfl",
            ]
        )
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[2:-1]] == [
        "fedlearn, serial",
        race.LEAN,
        *race.PEERS["pfl"],
    ]
    assert all(float(line.split()[-1]) > 20 for line in lines[2:4])  # MB
    assert all(line.endswith("not installed") for line in lines[4:-1])
