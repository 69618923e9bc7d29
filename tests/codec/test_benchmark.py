"""The codec benchmark and its recordings, on models small enough to check by hand."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from fedlearn import config, models
from fedlearn.arrays import Sparse
from fedlearn.codec import Context
from fedlearn.errors import DataError
from fedlearn.experiments.benchmarks import (
    codec,
    codec_beside,
    codec_plots,
    codec_speed,
    record_updates,
)
from fedlearn.experiments.benchmarks.codec_entropy import entropy, order0
from fedlearn.experiments.benchmarks.record_updates import Workload

TINY = Workload(
    "mnist-2nn-iid",
    (1, 2, 4),
    ("data.name='digits'", "model.name='logistic'", "strategy.clients_per_round=1"),
)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    out = tmp_path_factory.mktemp("recordings")
    assert len(list(record_updates.record("tiny", TINY, out))) == 4
    return out


def load(folder, stage):
    with np.load(folder / f"tiny-{stage}.npz") as file:
        return SimpleNamespace(**{key: file[key] for key in file.files})


def test_a_recording_is_of_one_run(recorded):
    early, middle, late = (load(recorded, stage) for stage in record_updates.STAGES)
    assert np.array_equal(early.model, early.w0)
    assert np.array_equal(late.w0, early.w0)
    assert np.array_equal(
        late.copy, middle.model
    )  # of round 2: the gap of 10 rounds is cut off there
    np.testing.assert_allclose(
        middle.model, early.model + early.update, atol=1e-6
    )  # a cohort of one client
    assert np.abs(late.update).max() > 1e-3
    assert (int(late.round), json.loads(str(late.shapes))[0][1]) == (4, [10, 64])
    assert [int(one.gap) for one in (early, middle, late)] == [0, 1, 2]


def test_the_gaps_of_the_shipped_workloads_are_those_of_the_text():
    found = {}
    for name, workload in record_updates.WORKLOADS.items():
        gap = round(
            1
            / config.read(workload.experiment, workload.overrides).strategy.options[
                "fraction_train"
            ]
        )
        found[name] = [
            number - record_updates.copied(number, gap) for number in workload.rounds
        ]
    assert found == {
        "2nn-iid": [1, 10, 10],
        "2nn-shards": [1, 10, 10],
        "lstm-watch": [1, 2, 2],
        "cnn-small": [1, 8, 10],
        "cnn": [1, 8, 10],
        "lstm-char": [1, 4, 8],
    }


def test_momentum_goes_on_in_the_direction_of_the_last_step(tmp_path):
    list(
        record_updates.record(
            "tiny",
            Workload(TINY.experiment, (1, 2, 3), TINY.overrides),
            tmp_path,
            momentum=0.5,
        )
    )
    early, middle, late = (load(tmp_path, stage) for stage in record_updates.STAGES)
    np.testing.assert_allclose(
        late.model - middle.model, 0.5 * early.update + middle.update, atol=1e-6
    )


def test_the_benchmark_leaves_figures_a_table_and_plots(recorded, tmp_path, capsys):
    assert (
        codec.main(
            [
                str(recorded),
                "--out",
                str(tmp_path),
                "--seeds",
                "2",
                "--chains",
                "raw32",
                "eden1",
                "nonsense",
            ]
        )
        == 0
    )
    results = [
        json.loads(line)
        for line in (tmp_path / "results.jsonl").read_text().splitlines()
    ]
    # Round 1 has the model that its clients hold: there is no difference to send.
    assert [(r["recording"], r["direction"]) for r in results[::2]] == [
        ("tiny-early", "up"),
        ("tiny-late", "up"),
        ("tiny-late", "down"),
        ("tiny-middle", "up"),
        ("tiny-middle", "down"),
    ]
    raw, eden = results[:2]
    assert (
        raw["chain"],
        raw["bits"],
        raw["error"],
        raw["along"],
        raw["parameters"],
    ) == ("raw32", 32.0, 0.0, 1.0, 650)
    assert (
        0.3 < eden["error"] < 0.9
        and eden["shape"] < eden["error"]
        and eden["along"] == pytest.approx(1, abs=1e-3)
    )
    assert "skipped nonsense: " in capsys.readouterr().err
    assert "eden1" in (tmp_path / "table.txt").read_text()
    assert {p.name for p in tmp_path.glob("*.png")} == {
        "rate-distortion.png", "rate-distortion-models-up.png", "rate-distortion-models-down.png"
    }  # fmt: skip


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04", b"no archive"])
def test_a_damaged_recording_is_told_in_one_line(tmp_path, capsys, damage):
    (tmp_path / "a-late.npz").write_bytes(damage)
    assert codec.main([str(tmp_path)]) == DataError.exit_code
    assert "a-late.npz is not a recording" in capsys.readouterr().err


def test_a_recording_whose_vectors_do_not_fit_is_told_in_one_line(tmp_path, capsys):
    v = np.ones(6, np.float32)
    np.savez(
        tmp_path / "a-late.npz",
        w0=v,
        start=v,
        update=v,
        copy=v,
        model=v,
        shapes=json.dumps([["w", [2, 4]]]),
        round=3,
    )
    assert codec.main([str(tmp_path)]) == DataError.exit_code
    assert "not 8 finite values" in capsys.readouterr().err


def test_a_folder_without_recordings_and_a_wrong_file_are_told_in_one_line(
    tmp_path, capsys
):
    assert codec.main([str(tmp_path)]) == DataError.exit_code
    assert "holds no recordings" in capsys.readouterr().err
    np.savez(tmp_path / "other.npz", w0=np.zeros(3))
    assert codec.main([str(tmp_path)]) == DataError.exit_code
    assert "is not a recording" in capsys.readouterr().err
    assert record_updates.main([str(tmp_path), "--only", "2nn-idd"]) == 2
    assert "2nn-iid" in capsys.readouterr().err


@pytest.mark.parametrize("argument", ["0", "-3", "many", "no-such.npz"])
def test_the_clock_of_codecs_tells_a_wrong_argument_in_one_line(capsys, argument):
    assert codec_speed.main([argument]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_another_checkout_is_run_beside_this_one(capsys, tmp_path):
    root = Path(__file__).parents[2]
    beside = codec_beside.Checkout(root)
    codec_beside.compare("eden1", 600, 2, (beside, beside))
    beside.close()
    assert "same bits" in capsys.readouterr().out
    assert codec_beside.main([str(tmp_path)]) == 2
    assert "is no checkout of fedlearn" in capsys.readouterr().err


@pytest.mark.parametrize(("up", "down"), codec_speed.PAIRS)
def test_a_clients_side_is_what_a_receiver_accepts(up, down):
    """What it times are the decoder's checks too: a model that does not arrive is an error."""
    module = models.build(
        "logistic", {}, input_shape=(8, 8), classes=10, seed=0, modality="image"
    )
    layout = models.layout(module)
    assert (
        min(
            codec_speed.payloads_ms(layout, models.read_state(module, layout), up, down)
        )
        > 0
    )


def test_entropy_of_known_symbols():
    assert (
        order0(np.array([1, 1, 2, 3])) == 6.0
    )  # one bit for each of two, two bits for each of the others
    assert order0(np.zeros(5)) == 0.0
    context = Context(((8,),))
    sparse = Sparse(np.array([0, 3]), np.array([2.0, -2.0], np.float32), 8)
    positions = 2 * np.log2(8 / 2) + 6 * np.log2(8 / 6)
    assert entropy("topk(0.25)+tern+rice", sparse, context) == pytest.approx(
        (positions + 2) / 8
    )
    assert entropy("topk(0.25)+f16", sparse, context) == pytest.approx(
        (positions + 32) / 8
    )
    assert entropy("raw32", np.ones(8, np.float32), context) is None


def test_levels_are_read_off_the_decoded_values():
    levels = np.array(
        [7, -7, 3, 3] * 65, np.float32
    )  # 260 values: a bucket of 256 and a rest
    scales = np.where(np.arange(260) < 256, 0.5, 1e-30).astype(np.float32)
    assert entropy("q4+deflate", levels * scales, Context(((260,),))) == pytest.approx(
        1.5
    )


def test_of_packers_the_smallest_is_drawn_and_recordings_are_averaged():
    def point(recording, chain, bits, error=0.5):
        return SimpleNamespace(
            recording=recording, direction="up", chain=chain, bits=bits, error=error
        )

    found = codec_plots.families(
        [
            point("a-early", "topk(0.01)+tern+rice", 0.2),
            point("a-early", "topk(0.01)+tern+range", 0.1),
            point("a-late", "topk(0.01)+tern+rice", 0.4, 0.125),
            point("a-late", "pred+cvq(0.1, 0)", 0.1),
            point("a-late", "pred+cvq(0.2)", 0.2, 0.25),
            point("a-late", "cvq(0.2,1)", 0.2),  # of no family
            point("a-late", "q4+deflate", 3.0, 0.125),
            point("a-late", "uvq(0.1)", 0.1, 5.0),
            point("a-late", "raw32", 32.0, 0.0),
        ]
    )
    points = {
        "topk+tern": [(0.2, 0.25)],
        "pred+cvq,0": [(0.1, 0.5), (0.2, 0.25)],
        "q4+deflate": [(3.0, 0.125)],
        "uvq": [(0.1, 5.0)],
    }
    assert found == {
        family: [pytest.approx(one) for one in wanted]
        for family, wanted in points.items()
    }
