"""Figures of a run.

The usual one: accuracy 0.1, 0.4, -, 0.3, 0.8 in rounds 0 to 4, 4,000 bytes in each from 1 on.
"""

import pytest

from fedlearn.records.reading import read
from fedlearn.reporting.results import (
    accuracy_curve,
    crossing,
    engine_text,
    labels,
    results,
)
from fedlearn.reporting.table import differences, flatten
from fedlearn.reporting.units import (
    bytes_text,
    count_text,
    number_text,
    percent_text,
    ratio_text,
    time_text,
)


def test_sums_of_an_unfinished_run_come_from_its_rounds(write):
    found = results(read(write(finished=False)))
    assert (found.bytes_up, found.bytes_down, found.bytes_total, found.bytes_raw) == (
        4000,
        12000,
        16000,
        64000,
    )
    assert found.seconds == pytest.approx(8.1)
    assert found.seconds_training == 6.0
    assert (found.accuracy, found.best_accuracy, found.best_round) == (0.8, 0.8, 4)
    assert found.loss == pytest.approx(1.2)
    assert (found.rounds, found.model_sha256, found.engine) == (
        4,
        "",
        "pool, 2 workers",
    )


def test_a_summary_has_the_last_word(write):
    folder = write()
    text = (
        (folder / "summary.json")
        .read_text()
        .replace('"bytes_up": 4000', '"bytes_up": 4444')
    )
    (folder / "summary.json").write_text(text)
    found = results(read(folder))
    assert found.bytes_up == 4444
    assert found.model_sha256.startswith("0123456789ab")


def test_the_curve_skips_rounds_without_accuracy_but_counts_their_bytes(lines):
    curve = accuracy_curve(lines)
    assert curve.rounds == (0, 1, 3, 4)
    assert curve.bytes_total == (0, 4000, 12000, 16000)
    assert curve.bytes_raw == (0, 16000, 48000, 64000)
    assert curve.accuracy == (0.1, 0.4, 0.3, 0.8)


def test_rounds_and_bytes_to_target_by_hand(lines):
    curve = accuracy_curve(lines)
    # 0.25 lies half-way between 0.1 (round 0) and 0.4 (round 1)
    assert crossing(curve.rounds, curve.accuracy, 0.25) == pytest.approx(0.5)
    assert crossing(curve.bytes_total, curve.accuracy, 0.25) == pytest.approx(2000)
    # 0.6 lies half-way between the best so far at round 3, which is 0.4 and not 0.3, and 0.8 at
    # round 4
    assert crossing(curve.rounds, curve.accuracy, 0.6) == pytest.approx(3.5)
    assert crossing(curve.bytes_total, curve.accuracy, 0.6) == pytest.approx(14000)
    assert crossing(curve.rounds, curve.accuracy, 0.8) == pytest.approx(4)
    assert crossing(curve.rounds, curve.accuracy, 0.81) is None


def test_a_first_point_above_the_target_counts_as_it_is():
    assert crossing([5, 6], [0.9, 0.95], 0.8) == 5
    assert crossing([], [], 0.8) is None


def test_nothing_evaluated_leaves_no_accuracy(write, lines):
    blind = [line | {"accuracy": None, "loss": None} for line in lines]
    found = results(read(write(lines=blind)))
    assert (found.accuracy, found.best_accuracy, found.best_round, found.loss) == (
        None,
        None,
        None,
        None,
    )


def test_nan_accuracy_is_no_point(lines):
    assert accuracy_curve([lines[1] | {"accuracy": float("nan")}]).rounds == ()


def test_engine_in_words(write):
    folder = write()
    text = (folder / "manifest.json").read_text()
    for engine, words in [
        ('{"kind": "serial", "workers": 1}', "serial, 1 worker"),
        ('{"kind": "serial"}', "serial"),
    ]:
        (folder / "manifest.json").write_text(
            text.replace('{"kind": "pool", "workers": 2}', engine)
        )
        assert engine_text(read(folder)) == words


def test_labels_are_distinct(write):
    runs = [
        read(write(folder, name=name))
        for folder, name in [("a/x", "one"), ("b/x", "one"), ("c", "two")]
    ]
    assert labels(runs) == [f"one ({runs[0].folder})", f"one ({runs[1].folder})", "two"]
    runs = [read(write(folder, name="one")) for folder in ("seed0", "seed1")]
    assert labels(runs) == ["one (seed0)", "one (seed1)"]


def test_config_differences_name_only_what_differs():
    first = {"experiment": {"name": "a", "seed": 1}, "train": {"lr": 0.1, "epochs": 1}}
    second = {
        "experiment": {"name": "b", "seed": 1},
        "train": {"lr": 0.2, "epochs": 1, "momentum": 0.9},
    }
    assert differences([first, second]) == {
        "train.lr": [0.1, 0.2],
        "train.momentum": [None, 0.9],
    }
    assert flatten({"data": {"partition": {"alpha": 0.5}}}) == {
        "data.partition.alpha": 0.5
    }


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (bytes_text(0), "0 B"),
        (bytes_text(999), "999 B"),
        (bytes_text(999.7), "1.00 kB"),
        (bytes_text(12_345), "12.3 kB"),
        (bytes_text(999_600), "1.00 MB"),
        (bytes_text(5.5e15), "5500 TB"),
        (bytes_text(float("nan")), "-"),
        (time_text(0.421), "0.42 s"),
        (time_text(9.96), "10 s"),
        (time_text(59.7), "1 min 00 s"),
        (time_text(303), "5 min 03 s"),
        (time_text(3599.6), "1 h 00 min"),
        (time_text(None), "-"),
        (percent_text(0.81234), "81.23 %"),
        (percent_text(None), "-"),
        (number_text(0.51234), "0.512"),
        (number_text(1.5e-7), "1.5e-07"),
        (number_text(float("nan")), "nan"),
        (count_text(1663370), "1,663,370"),
        (ratio_text(317, 10), "31.7×"),
        (ratio_text(5, 0), "-"),
    ],
)
def test_numbers_as_people_read_them(text, wanted):
    assert text == wanted
