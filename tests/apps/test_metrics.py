"""An app's own metrics stand in its run folder and on its page, under its own names.

The app is a small transformer, in the shape of Flower's quickstart-huggingface.
"""

import json
import re

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from fedlearn.apps import start
from fedlearn.apps.api import run_app
from tests.apps import plain
from tests.apps.plain import SAMPLES

NAMES = {
    "train": {"perplexity", "largest_grad_norm"},
    "evaluate": {"micro_f1", "node_losses"},
    "server": {"held_out_loss", "held_out_f1"},
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Return the folder of a run of the sample app."""
    started = start.of_options(SAMPLES / "language", workers=2)
    return run_app(started, tmp_path_factory.mktemp("language") / "run", quiet=True)


@pytest.fixture
def one_thread():
    """Have torch add in the order of the workers: Adam makes much of a last bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_a_transformer_gives_what_flowers_own_loop_gives(ran, one_thread):
    result = plain.run("language")
    arrays = load_file(ran.folder / "result.safetensors")
    assert len(arrays) == len(result.arrays) > 20
    for key, array in result.arrays.items():
        np.testing.assert_allclose(arrays[key], array.numpy(), rtol=1e-5, atol=1e-5)
    for kind, rounds in (
        ("train", result.train_metrics_clientapp),
        ("evaluate", result.evaluate_metrics_clientapp),
        ("server", result.evaluate_metrics_serverapp),
    ):
        last = dict(rounds[3])
        assert set(last) == NAMES[kind]
        expected = {name: pytest.approx(v, abs=1e-4) for name, v in last.items()}
        assert ran.summary[kind] == expected
    # It learns: chance is at 0.69 and below 0.7.
    first = result.evaluate_metrics_serverapp[0]["held_out_loss"]
    assert ran.summary["server"]["held_out_loss"] < first
    assert ran.summary["train"]["perplexity"] < 2


def test_every_line_and_the_summary_have_the_apps_own_names(ran):
    texts = (ran.folder / "metrics.jsonl").read_text().splitlines()
    lines = [json.loads(text) for text in texts]
    assert [line["round"] for line in lines] == [0, 1, 2, 3]
    # Before the first round the ServerApp alone has measured.
    assert lines[0]["train"] is None
    for line in lines[1:]:
        assert {kind: set(line[kind]) for kind in NAMES} == NAMES
    summary = json.loads((ran.folder / "summary.json").read_text())
    assert {kind: summary[kind] for kind in NAMES} == {
        kind: lines[-1][kind] for kind in NAMES
    }
    assert len(summary["evaluate"]["node_losses"]) == 3
    # None of ours: the app said nothing of an accuracy.
    assert "accuracy" not in "".join(texts)


def test_the_page_shows_them_by_name_with_a_picture_each(ran):
    page = (ran.folder / "report.html").read_text()
    pictures = {path.name for path in (ran.folder / "plots").iterdir()}
    # One for each number, and the bytes; a list has none.
    assert len(pictures) == 6
    assert "bytes.png" in pictures
    headings = re.findall(r"<th[^>]*>([^<]*)</th>", page)
    for kind, names in NAMES.items():
        for name in names - {"node_losses"}:
            assert f"{kind} {name}" in headings
            value = ran.summary[kind][name]
            assert f"{value:.3f}" in page
    assert "accuracy" not in page
