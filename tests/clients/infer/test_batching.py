"""Micro-batches: what waits goes together, and one request never spoils another."""

import asyncio
import time

import numpy as np
import pytest

from fedlearn.clients.infer.batching import Batcher, Query, computed, one_by_one
from fedlearn.clients.infer.metrics import Measures
from fedlearn.clients.infer.model import load
from fedlearn.clients.infer.refusal import Refusal
from tests.clients.infer import graphs


def query(model, values, answers: list | None = None, **more) -> Query:
    """Return a request; answers: what its outcome is added to."""
    inputs = model.checked({model.inputs[0].name: np.array(values, np.float32)})
    outcomes = [] if answers is None else answers
    return Query(model, inputs, lambda model, outcome: outcomes.append(outcome), **more)


def pair(model, row) -> Query:
    """Return a request of the model with two inputs; a row beyond 1 cannot be computed."""
    inputs = {"a": np.zeros((1, 2), np.float32), "b": np.array([row])}
    return Query(model, model.checked(inputs), lambda model, outcome: None)


def outputs(outcomes) -> list:
    """Return the first output of each outcome; an outcome that is a refusal has none."""
    return [None if isinstance(o, Refusal) else o[0].tolist() for o in outcomes]


def test_a_batch_is_what_each_would_be_alone(tmp_path):
    model = load(graphs.scaled(tmp_path / "m.onnx"))
    batch = [query(model, [[i, 0, 1]] * (1 + i % 3)) for i in range(7)]
    assert outputs(computed(batch)) == outputs(one_by_one(batch))
    assert outputs(computed(batch))[2] == [[4, 0, 2]] * 3


def test_a_request_that_fails_does_not_spoil_the_others(tmp_path):
    model = load(graphs.two_inputs(tmp_path / "m.onnx"))
    outcomes = computed([pair(model, 0), pair(model, 9), pair(model, 1)])
    assert outputs(outcomes) == [[[10, 20]], None, [[30, 40]]]
    assert isinstance(outcomes[1], Refusal) and outcomes[1].status == 400


def test_a_model_that_joins_its_samples_is_run_for_each_request(tmp_path):
    model = load(graphs.joined(tmp_path / "m.onnx"))
    outcomes = computed([query(model, [[1, 2]]), query(model, [[3, 4]])])
    assert outputs(outcomes) == [[[1, 2]], [[3, 4]]]


def test_only_samples_of_one_shape_join(tmp_path):
    model = load(graphs.lengths(tmp_path / "m.onnx"))
    short = query(model, np.ones((1, 3, 2)))
    assert short.joins(query(model, np.ones((2, 3, 2))))
    assert not short.joins(query(model, np.ones((1, 4, 2))))
    single = load(graphs.fixed(tmp_path / "f.onnx"))
    assert not query(single, [[1, 2]]).joins(query(single, [[1, 2]]))


@pytest.mark.parametrize("inline_s", [0.0, 60.0], ids=["thread", "inline"])
def test_what_came_meanwhile_goes_together_up_to_the_limit(tmp_path, inline_s):
    model = load(graphs.scaled(tmp_path / "m.onnx"))
    measures = Measures()
    answers: list = []

    async def ask():
        batcher = Batcher(measures, limit=4, inline_s=inline_s)
        for number in range(10):
            batcher.put(query(model, [[number, 0, 0]], answers))
        await batcher.drained()
        # Alone, it is not held up for others to come.
        batcher.put(query(model, [[10, 0, 0]], answers))
        await batcher.drained()
        batcher.close()

    asyncio.run(ask())
    assert [outcome[0][0, 0] for outcome in answers] == [2 * n for n in range(11)]
    # 4, 4, 2 and 1 samples.
    assert measures.batch.counts[:3] == [1, 1, 2]
    assert measures.batch.sum == 11


def test_a_full_queue_and_a_deadline_that_cannot_be_met_are_refused(tmp_path):
    model = load(graphs.scaled(tmp_path / "m.onnx"))
    answers: list = []

    async def ask():
        batcher = Batcher(Measures(), queue_rows=4)
        batcher.put(query(model, [[0, 0, 0]] * 3, answers))
        with pytest.raises(Refusal, match="3 samples wait already") as full:
            batcher.put(query(model, [[0, 0, 0]] * 2, answers))
        assert (full.value.status, full.value.retry_s) == (503, 1)
        with pytest.raises(Refusal, match="too busy") as late:
            batcher.put(query(model, [[0, 0, 0]], answers, deadline=0.0))
        assert late.value.kind == "late"
        await batcher.drained()
        # One request alone may be larger than the queue.
        batcher.put(query(model, [[0, 0, 0]] * 9, answers))
        await batcher.drained()
        batcher.close()

    asyncio.run(ask())
    assert [len(outcome[0]) for outcome in answers] == [3, 9]


def test_the_bytes_that_wait_are_bounded_too(tmp_path):
    model = load(graphs.lengths(tmp_path / "m.onnx"))

    async def ask():
        batcher = Batcher(Measures(), queue_bytes=100)
        batcher.put(query(model, np.ones((1, 10, 2)), []))
        with pytest.raises(Refusal, match="wait already"):
            batcher.put(query(model, np.ones((1, 3, 2)), []))
        await batcher.drained()
        batcher.close()

    asyncio.run(ask())


def test_whoever_has_gone_is_not_computed(tmp_path):
    model = load(graphs.scaled(tmp_path / "m.onnx"))
    measures = Measures()
    answers: list = []

    async def ask():
        batcher = Batcher(measures)
        gone = query(model, [[0, 0, 0]], answers)
        batcher.put(gone)
        batcher.put(query(model, [[1, 0, 0]], answers, deadline=time.monotonic() + 60))
        gone.is_dropped = True
        await batcher.drained()
        batcher.close()

    asyncio.run(ask())
    assert len(answers) == 1 and measures.batch.sum == 1


def test_a_deadline_that_passes_in_the_queue_is_answered(tmp_path):
    model = load(graphs.scaled(tmp_path / "m.onnx"))
    answers: list = []

    async def ask():
        batcher = Batcher(Measures())
        waiting = query(model, [[0, 0, 0]], answers)
        batcher.put(waiting)
        waiting.deadline = 0.0
        await batcher.drained()
        batcher.close()

    asyncio.run(ask())
    assert answers[0].kind == "late"


def test_a_batch_is_of_one_version(tmp_path):
    old = load(graphs.scaled(tmp_path / "a.onnx", 2))
    new = load(graphs.scaled(tmp_path / "b.onnx", 3))
    answers: list = []

    async def ask():
        batcher = Batcher(Measures())
        for model in (old, old, new, old):
            batcher.put(query(model, [[1, 0, 0]], answers))
        await batcher.drained()
        batcher.close()

    asyncio.run(ask())
    assert [outcome[0][0, 0] for outcome in answers] == [2, 2, 3, 2]
