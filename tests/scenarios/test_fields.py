"""Drawn soil: the same for a seed, and labels that follow from the day after."""

import numpy as np

from fedlearn.scenarios import fields, soil


def test_a_seed_gives_the_same_readings():
    for a, b in zip(fields.load(3), fields.load(3), strict=True):
        assert np.array_equal(a, b)


def test_farms_are_unlike():
    x, y, x_test, _, names = fields.load(0)
    assert x.shape[1:] == x_test.shape[1:] == (48, 4)
    assert x.dtype == np.float32
    assert len(x) == len(names) == 1910
    # What dries fast is irrigated, and what lies by the sea is flushed.
    dry = np.mean(y[names == "sandy hill"] == 1)
    salty = np.mean(y[names == "coast"] == 2)
    assert dry > 3 * np.mean(y[names == "clay valley"] == 1)
    assert salty > 3 * np.mean(y[names == "river meadow"] == 2)


def test_a_label_is_what_the_day_after_asks_for():
    moisture = np.full((3, 72), 0.8)
    salinity = np.full((3, 72), 1.0)
    # Dry within the window is past; dry on the day after is what counts.
    moisture[0, 10] = 0.1
    moisture[1:, 60] = 0.1
    salinity[2, 70] = 5.0
    labels = fields.labels_of(moisture, salinity)
    assert [fields.CLASSES[label] for label in labels] == ["leave", "irrigate", "flush"]


def test_a_table_has_a_row_of_numbers_for_each_window(tmp_path):
    x, _ = fields.samples(5, np.random.default_rng(0))
    soil.write_readings(tmp_path / "r.csv", x)
    rows = np.loadtxt(tmp_path / "r.csv", delimiter=",", skiprows=1, dtype=np.float32)
    assert np.array_equal(rows.reshape(x.shape), x)
    head = (tmp_path / "r.csv").read_text().partition("\n")[0].split(",")
    assert head[:5] == [
        "moisture_0",
        "temperature_0",
        "salinity_0",
        "rain_0",
        "moisture_1",
    ]
