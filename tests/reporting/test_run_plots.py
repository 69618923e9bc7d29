"""The pictures: there, of a readable size, not empty, and drawn from whatever a run may leave."""

import json
from pathlib import Path

import numpy as np
import pytest

from fedlearn.errors import RecordError
from fedlearn.records.reading import read
from fedlearn.reporting.label_plot import plot_label_mix
from fedlearn.reporting.plots import draw

pytest.importorskip("matplotlib")


def pixels(path: Path) -> np.ndarray:
    """Return the picture as (height, width, 4) floats."""
    from matplotlib.image import imread

    return imread(path)


def ink(path: Path) -> float:
    """Return the share of pixels that are not white."""
    return float((pixels(path)[..., :3].min(axis=-1) < 0.97).mean())


def test_the_pictures_of_a_run(write, lines):
    lines[4]["clients_evaluation"] = {
        "clients": 6,
        "accuracy": 0.7,
        "worst10": 0.5,
        "spread": 0.1,
        "loss": 1.0,
    }
    folder = write(lines=lines)
    drawn = draw(folder)
    assert sorted(path.name for path in drawn) == [
        "accuracy_bytes.png",
        "accuracy_rounds.png",
        "clients.png",
        "label_mix.png",
        "loss.png",
        "time_per_phase.png",
    ]
    for path in drawn:
        assert path.parent == folder / "plots"
        assert pixels(path).shape[1] == 1080
        assert 0.02 < ink(path) < 0.9, path.name


def test_without_evaluations_there_is_no_accuracy_picture(write, lines, tmp_path):
    blind = [
        line | {"accuracy": None, "loss": None, "train_loss": None} for line in lines
    ]
    drawn = draw(write(lines=blind), tmp_path / "elsewhere")
    assert sorted(path.name for path in drawn) == [
        "label_mix.png",
        "time_per_phase.png",
    ]
    assert drawn[0].parent == tmp_path / "elsewhere"


def test_one_round_with_a_loss_that_is_not_finite(write, lines):
    one = lines[1] | {"loss": float("nan"), "train_loss": 1.0, "seconds_by_phase": None}
    names = [path.name for path in draw(write(lines=[one], finished=False))]
    assert names == [
        "accuracy_rounds.png",
        "accuracy_bytes.png",
        "loss.png",
        "time_per_phase.png",
        "label_mix.png",
    ]


def test_long_runs_are_grouped(write, lines):
    many = [lines[1] | {"round": position} for position in range(1, 151)]
    folder = write(lines=many)
    assert (
        ink(next(path for path in draw(folder) if path.name == "time_per_phase.png"))
        > 0.2
    )


def test_names_are_never_read_as_formulas(write, lines):
    lines[1]["seconds_by_phase"] = {"_$\\frac{1}{$": 1.0, "train": 1.0}
    assert "time_per_phase.png" in [path.name for path in draw(write(lines=lines))]


@pytest.mark.parametrize(
    ("data", "height"),  # in pixels, 150 per inch
    [
        ({}, 549),  # the mix: 3 inches and 0.22 for each of three labels
        (
            {
                "label_counts": {
                    "clients": [0, 1, 2, 3, 4],
                    "counts": [[4], [6], [6], [9], [20]],
                }
            },
            630,
        ),  # a histogram of sizes
        ({"label_counts": None}, 360),  # smallest, median and largest client
        ({"label_counts": None, "sizes": None}, None),
        (
            {
                "label_counts": {"clients": [0, 1], "counts": [[1, 2], [3]]},
                "sizes": None,
            },
            None,
        ),  # not a table
    ],
)
def test_what_is_drawn_of_a_partition(write, tmp_path, data, height):
    path = tmp_path / "mix.png"
    drawn = plot_label_mix(read(write(manifest_data=data)), path)
    assert drawn == path.exists() == (height is not None)
    if height:
        assert pixels(path).shape[:2] == (height, 1080)


def test_a_manifest_that_is_lost_takes_only_the_label_mix_along(write):
    folder = write()
    (folder / "manifest.json").write_text(json.dumps([]))
    assert "label_mix.png" not in [path.name for path in draw(folder)]


def test_a_place_that_cannot_be_written_is_named(write, tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(RecordError, match=r"cannot write the plot .*taken"):
        draw(write(), tmp_path / "taken")
