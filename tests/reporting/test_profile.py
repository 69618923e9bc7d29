"""Where a run's time goes: its figures, by hand; its table, sentence, picture and option."""

import json

import pytest

from fedlearn.commands.report import main
from fedlearn.errors import UserError
from fedlearn.records.names import PROFILE_FILE
from fedlearn.records.reading import read
from fedlearn.reporting.plots import draw
from fedlearn.reporting.profile import (
    RoundTraining,
    TrainingMeasurements,
    profile_of,
    read_measurements,
)
from fedlearn.reporting.profile_plot import plot_profile
from fedlearn.reporting.profile_text import advice, of_run, text

PEAK = {
    "one_gflops": 5.0,
    "all_gflops": 8.0,
    "processes": 2,
    "cores": 2,
    "by": "torch.mm",
}
# Two of four rounds: their clients train 3 s, on 2 workers 1.5 s of the round's 2 s, for 3 GFLOP.
SEEN = (RoundTraining(1, 2, 3.0, 3e9, 4, 1.0), RoundTraining(2, 2, 3.0, 3e9, 0, 1.25))


def profiled(folder, seen=SEEN, peak=PEAK):
    """Write profile.json into a run folder and return the profile."""
    found = profile_of(read(folder), TrainingMeasurements(tuple(seen), peak))
    assert found
    (folder / PROFILE_FILE).write_text(json.dumps(found.plain()), encoding="utf-8")
    return found


def without(folder):
    """Return the profile of a run that was not asked for one."""
    found = profile_of(read(folder), TrainingMeasurements())
    assert found
    return found


def by_name(found):
    return {phase.name: phase for phase in found.phases}


def test_phases_add_up_and_come_in_the_order_of_a_round(write, lines):
    lines[2] |= {"seconds": 3.0}
    lines[3]["seconds_by_phase"] = {"zebra": 0.5, "train": 1.0, "prepare": 0.3}
    found = without(write(lines=lines))
    assert (found.rounds, found.seconds) == (4, pytest.approx(9))
    assert list(by_name(found)) == [
        "prepare",
        "train",
        "encode",
        "evaluate",
        "zebra",
        "other",
    ]
    assert [phase.seconds for phase in found.phases] == pytest.approx(
        [0.6, 5.5, 0.6, 0.6, 0.5, 1.2]
    )
    train, other = by_name(found)["train"], by_name(found)["other"]
    assert (train.share, train.median_s, train.worst_s, train.worst_round) == (
        pytest.approx(5.5 / 9),
        1.5,
        1.5,
        1,
    )
    assert (other.median_s, other.worst_s, other.worst_round) == (
        pytest.approx(0.1),
        pytest.approx(1),
        2,
    )
    assert (found.slowest_round, found.slowest_round_s, found.overlap_s) == (2, 3.0, 0)


def test_phases_that_go_on_at_the_same_time_are_told(write, lines):
    lines[1] |= {"seconds": 1.5}
    found = without(write(lines=lines))
    assert found.overlap_s == pytest.approx(0.5)
    assert by_name(found)["other"].seconds == 0
    assert "count twice: 0.50 s in all" in text(
        found, read(write("again", lines=lines))
    )


def test_training_beside_the_peak(write):
    training = profiled(write()).training
    assert (
        training.rounds,
        training.flops,
        training.gflops,
        training.rounds_gflops,
    ) == (2, 6e9, 2.0, 1.5)
    assert (training.peak_gflops, training.peak_share, training.rounds_peak_share) == (
        8.0,
        0.25,
        0.1875,
    )


@pytest.mark.parametrize(
    ("workers", "top"), [(1, 5.0), (2, 8.0), (16, 8.0)]
)  # 16 share the two cores
def test_the_peak_is_that_of_the_workers_in_use(write, workers, top):
    assert (
        profiled(write(), [RoundTraining(1, workers, 1.0, 1e9)]).training.peak_gflops
        == top
    )


def test_operations_that_are_not_known_are_not_guessed(write):
    folder = write()
    assert profiled(folder, [RoundTraining(1, 2, 3.0, None, 4, 1.0)]).training is None
    assert "GFLOP" not in of_run(read(folder))
    assert profiled(folder, peak=None).training.peak_share is None
    assert (
        "2 GFLOP/s while clients train, 1.5 over whole rounds (of 2 rounds)\n"
        in of_run(read(folder))
    )


def test_what_was_seen_comes_back_from_the_folder(write):
    folder = write()
    profiled(folder)
    assert read_measurements(folder) == TrainingMeasurements(SEEN, PEAK)


def test_rounds_that_were_not_finished_do_not_count(write):
    found = profiled(write(), [*SEEN, RoundTraining(5, 2, 100.0, 1e9, 3, 99.0)])
    assert found.training.flops == 6e9
    assert found.slowest == SEEN[1]
    assert [row["round"] for row in found.plain()["by_round"]] == [1, 2]
    assert found.plain()["slowest_client"] == {"client": 0, "round": 2, "seconds": 1.25}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"peak": {}}',
        '{"peak": 3, "by_round": [{"round": "x"}]}',
        '{"peak": null, "by_round": 4}',
    ],
)
def test_a_damaged_file_tells_nothing(write, content):
    folder = write()
    (folder / PROFILE_FILE).write_text(content)
    assert read_measurements(folder) == TrainingMeasurements()
    assert "Where the time goes: 4 rounds, 8.0 s" in of_run(read(folder))


def test_the_table(write):
    folder = write()
    profiled(folder)
    assert of_run(read(folder)) == (
        "Where the time goes: 4 rounds, 8.0 s\n"
        "\n"
        "phase     seconds   share  median ms  worst ms  in round\n"
        "prepare      0.40   5.0 %      100.0     100.0         1\n"
        "train        6.00  75.0 %     1500.0    1500.0         1\n"
        "encode       0.80  10.0 %      200.0     200.0         1\n"
        "evaluate     0.80  10.0 %      200.0     200.0         1\n"
        "other        0.00   0.0 %        0.0       0.0         1\n"
        "\n"
        "train, encode: summed over clients, divided by 2 workers; "
        "other: what no phase accounts for, such as workers that wait\n"
        "local training: 2 GFLOP/s while clients train, 1.5 over whole rounds (of 2 rounds);\n"
        "  25.0 % and 18.8 % of the 8 GFLOP/s that 2 processes reach in products of matrices\n"
        "slowest round: 1, 2.0 s; slowest client: 0 in round 2, 1.2 s\n"
        "largest cost outside training that you can change: encode, 10.0 %;\n"
        '  a plainer codec.up than "q8", such as "f16" or "raw32", takes less time and more bytes\n'
    )


@pytest.mark.parametrize(
    ("phases", "words"),
    [
        (
            {"train": 1.0, "evaluate": 0.6, "encode": 0.3},
            "evaluate, 30.0 %; experiment.evaluate_every = 4 (now 1)",
        ),
        (
            {"train": 1.0, "record": 0.6, "encode": 0.3},
            "record, 30.0 %; experiment.checkpoint_every = 4 (now 1)",
        ),
        (
            {"train": 1.0, "prepare": 0.4, "aggregate": 0.3},
            'prepare, 20.0 %; a plainer codec.down than "f16"',
        ),
        (
            {"train": 1.0, "prepare": 0.3, "aggregate": 0.4},
            'aggregate, 20.0 %; a plainer codec.up than "q8"',
        ),
        (
            {"train": 1.3, "evaluate": 0.08},
            "other, 31.0 %; rounds wait for their slowest client",
        ),
        ({"train": 1.9, "evaluate": 0.09}, None),  # below 5 %
    ],
)
def test_the_sentence_names_what_can_be_changed(write, lines, phases, words):
    changed = [line | {"seconds_by_phase": phases} for line in lines]
    folder = write(lines=changed)
    file = folder / "config.toml"
    file.write_text(
        file.read_text().replace(
            "evaluate_every = 1", "evaluate_every = 1\ncheckpoint_every = 1"
        )
    )
    slow = [RoundTraining(round, 2, 2.0, 1e9, 3, 1.3) for round in (1, 2, 3, 4)]
    said = advice(profiled(folder, slow), read(folder)) or ""
    assert words in said if words else said == ""


def test_what_nobody_can_change_gets_no_sentence(write, lines):
    changed = [
        line | {"seconds_by_phase": {"evaluate": 1.0, "prepare": 1.0}, "clients": 1}
        for line in lines
    ]
    folder = write(lines=changed)
    config, manifest = folder / "config.toml", folder / "manifest.json"
    config.write_text(
        config.read_text().replace("evaluate_every = 1", "evaluate_every = 4")
    )  # of 4 rounds: that is once
    manifest.write_text(manifest.read_text().replace('"f16"', '"raw32"'))
    assert advice(profiled(folder), read(folder)) is None


def test_cores_that_do_nothing_get_a_sentence(write, lines):
    changed = [line | {"seconds_by_phase": {"train": 2.0}} for line in lines]
    folder = write(lines=changed)
    found = profiled(folder, [RoundTraining(1, 1, 2.0, 1e9)], PEAK | {"cores": 8})
    assert (advice(found, read(folder)) or "").startswith("1 of 8 cores train;")


def test_a_run_without_a_round_has_no_profile(write, lines):
    run = read(write(lines=lines[:1], finished=False))
    assert profile_of(run, TrainingMeasurements()) is None
    with pytest.raises(UserError, match="no trained round"):
        of_run(run)


@pytest.mark.parametrize("rounds", [1, 4, 150])
@pytest.mark.parametrize("peak", [PEAK, None])
def test_the_picture(write, lines, tmp_path, rounds, peak):
    from matplotlib.image import imread

    folder = write(
        lines=[lines[1] | {"round": round} for round in range(1, rounds + 1)]
    )
    assert not plot_profile(read(folder), tmp_path / "none.png")  # without --profile
    profiled(
        folder,
        [RoundTraining(round, 2, 3.0, 3e9) for round in range(1, rounds + 1)],
        peak,
    )
    assert folder / "plots" / "profile.png" in draw(folder)
    picture = imread(folder / "plots" / "profile.png")
    assert picture.shape[:2] == (960, 1080)
    assert (picture[..., :3].min(axis=-1) < 0.97).mean() > 0.05


def test_the_picture_without_operations_has_the_bars_alone(write):
    from matplotlib.image import imread

    folder = write()
    profiled(folder, ())
    draw(folder)
    assert imread(folder / "plots" / "profile.png").shape[:2] == (630, 1080)


def test_report_tells_the_profile_of_each_run(write, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    first, second = write("a", name="first"), write("b", name="second")
    profiled(first)
    assert main([str(first), str(second), "--profile"]) == 0
    out = capsys.readouterr().out
    assert (
        "\nfirst. Where the time goes: 4 rounds" in out
        and "\nsecond. Where the time goes: 4 rounds" in out
    )
    assert out.count("GFLOP/s while") == 1
    assert main([str(first), "--profile", "--csv"]) == 2
    assert "--csv" in capsys.readouterr().err
