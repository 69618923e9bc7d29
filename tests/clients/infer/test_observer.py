"""What is seen of answers without labels: a permuted model disagrees with the one before."""

import asyncio
import json
from dataclasses import replace

import numpy as np
import pytest

from fedlearn.clients.infer import observer
from fedlearn.clients.infer.batching import Query
from fedlearn.clients.infer.model import ServedModel, load
from fedlearn.clients.infer.observer import Observer, disagreement, label_places
from fedlearn.clients.infer.refusal import Refusal
from fedlearn.clients.infer.slot import ShadowModel
from fedlearn.clients.infer.tensors import Array
from tests.clients.device import releases
from tests.clients.infer import graphs

W = np.eye(6, 3, dtype=np.float32) * 9
PERMUTED = W[:, [1, 2, 0]]


class Slot:
    def __init__(self, model, shadow=None, share=1.0):
        self.model: ServedModel = model
        self.shadow = None if shadow is None else ShadowModel(shadow, share)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A model, the same with permuted classes, and another one that says so by its labels."""
    folder = tmp_path_factory.mktemp("models")
    names = tuple(f"class {n}" for n in (1, 2, 0))
    releases.write_wide(folder / "good", 1, W)
    releases.write_wide(folder / "permuted", 2, PERMUTED)
    releases.write_wide(folder / "renamed", 3, PERMUTED, labels=names)
    return [load(folder / name) for name in ("good", "permuted", "renamed")]


def batch_of(model, x) -> tuple[list[Query], list[list[Array] | Refusal]]:
    """Return a request with its answer."""
    tensors = {"x": x}
    inputs = model.checked(tensors)
    query = Query(model, inputs, lambda model, outcome: None, asked=tensors)
    return [query], [model.run(inputs)]


def samples(count, seed=0):
    draw = np.random.default_rng(seed)
    return draw.integers(0, 256, (count, 6)).astype(np.uint8)


def test_labels_are_compared_by_their_names(models):
    good, permuted, renamed = models
    [query], [outcome] = batch_of(permuted, samples(50))
    assert not isinstance(outcome, Refusal)
    expected = (outcome[0].argmax(1) != (samples(50) @ W).argmax(1)).sum()
    assert disagreement(good, query, outcome) == expected > 40
    # The same weights with names that went along say the same.
    assert disagreement(renamed, query, outcome) == expected
    [query], [outcome] = batch_of(renamed, samples(50))
    assert not isinstance(outcome, Refusal)
    assert disagreement(good, query, outcome) == 0


def test_a_permuted_list_of_names_shows_with_the_same_weights(models):
    good = models[0]
    liar = replace(good, labels=("class 1", "class 2", "class 0"))
    [query], [outcome] = batch_of(liar, samples(50))
    assert not isinstance(outcome, Refusal)
    assert disagreement(good, query, outcome) == 50


def test_names_that_differ_are_compared_by_their_places():
    assert label_places(("a", "b"), ("c", "d")) is None
    assert label_places((), ("c", "d")) is None
    assert label_places(("a", "b"), ("a", "a", "b")) is None
    places = label_places(("a", "b"), ("b", "new", "a"))
    assert places is not None and places.tolist() == [2, 0]


def test_what_the_shadow_does_not_take_is_no_comparison(models, tmp_path):
    [query], [outcome] = batch_of(models[0], samples(3))
    assert not isinstance(outcome, Refusal)
    other = load(graphs.scaled(tmp_path / "m.onnx"))
    assert disagreement(other, query, outcome) is None


def observed(models, count, share, rows=1):
    """Return the counts of an observer after some requests to the permuted model."""

    async def run():
        slot = Slot(models[1], models[0], share)
        watch = Observer(slot, print)  # type: ignore[arg-type]
        for number in range(count):
            watch.answered(*batch_of(models[1], samples(rows, number)))
            while watch._is_comparing:
                await asyncio.sleep(0.001)
        watch.close()
        return watch.counts

    return asyncio.run(run())


def test_the_first_answers_are_all_compared_then_a_share(models, monkeypatch):
    monkeypatch.setattr(observer, "ALL_COMPARED", 40)
    counts = observed(models, 60, 0.0)
    assert counts.compared == 40 and counts.incomparable == 0
    assert counts.disagreeing > 30
    monkeypatch.setattr(observer, "ALL_COMPARED", 0)
    assert observed(models, 100, 0.25).compared == pytest.approx(25, abs=1)
    assert observed(models, 100, 0.1, rows=5).compared == pytest.approx(50, abs=5)


def test_comparisons_that_go_wrong_are_counted_and_no_request_waits(models):
    async def run():
        broken = replace(models[0], session=None)
        slot = Slot(models[1], broken)
        watch = Observer(slot, print)  # type: ignore[arg-type]
        for number in range(3):
            watch.answered(*batch_of(models[1], samples(1, number)))
            while watch._is_comparing:
                await asyncio.sleep(0.001)
        watch.close()
        return watch

    watch = asyncio.run(run())
    assert watch.counts.incomparable == 3 and watch.trouble == ""


def test_a_second_is_looked_at_in_fifty_samples(models):
    seconds = [0.0]
    watch = Observer(
        Slot(models[0]),  # type: ignore[arg-type]
        print,
        lambda: seconds[0],
    )
    for number in range(400):
        seconds[0] = 10 * number / 400
        watch.answered(*batch_of(models[0], samples(32, number)))
    # 50 at first, and 50 in each of ten seconds.
    assert watch.counts.answers == pytest.approx(550, abs=2)
    assert watch.drift.inputs is not None


def test_another_version_is_counted_anew_and_late_answers_are_not(models):
    slot = Slot(models[0])
    watch = Observer(slot, print)  # type: ignore[arg-type]
    watch.answered(*batch_of(models[0], samples(5)))
    assert watch.counts.answers == 5
    slot.model = models[1]
    watch.answered(*batch_of(models[1], samples(3)))
    watch.answered(*batch_of(models[0], samples(9)))
    assert watch.counts.answers == 3


def test_requests_that_failed_are_not_observed(models):
    watch = Observer(Slot(models[0]), print)  # type: ignore[arg-type]
    batch, _ = batch_of(models[0], samples(5))
    watch.answered(batch, [Refusal(400, "model", "no")])
    assert watch.counts.answers == 0 and watch.trouble == ""


def test_what_goes_wrong_ends_the_observation_with_a_line(models):
    lines: list[str] = []
    watch = Observer(Slot(models[0]), lines.append)  # type: ignore[arg-type]
    batch, _ = batch_of(models[0], samples(5))
    outcome: list[Array] = []
    watch.answered(batch, [outcome])
    watch.answered(batch, [outcome])
    assert len(lines) == 1 and "answers are not observed any more" in lines[0]
    assert json.dumps(watch.status())


def test_a_model_without_a_package_has_no_reference(tmp_path):
    model = load(graphs.scaled(tmp_path / "m.onnx"))
    watch = Observer(Slot(model), print)  # type: ignore[arg-type]
    inputs = model.checked({"x": np.ones((2, 3), np.float32)})
    query = Query(model, inputs, lambda model, outcome: None)
    watch.answered([query], [model.run(inputs)])
    assert watch.counts.answers == 0
    assert "drift_inputs" not in watch.gauges()
