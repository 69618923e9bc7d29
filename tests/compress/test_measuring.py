"""The figures of a table: each by numbers that a reader can check."""

import itertools

import numpy as np
import pytest
import torch

from fedlearn.clients.batches import Tensors
from fedlearn.clients.evaluate import evaluate
from fedlearn.compress.measuring import (
    TURNS,
    accuracy,
    caller,
    cpu_microseconds,
    peak_memory,
    relative,
    scores,
)
from fedlearn.errors import RunError
from fedlearn.export.onnx import graph_of, write
from fedlearn.export.session import session
from tests.export.models import untrained


def test_accuracy_counts_every_target_but_padding():
    # The first character of the last line is wrong, its second one is padding.
    y = torch.tensor([[1, 2], [3, 4], [5, -100]])
    guesses = np.array([[1, 2], [3, 4], [0, 0]])

    def score(x):
        return np.eye(6, dtype=np.float32)[guesses[x[:, 0].numpy()]]

    x = torch.arange(3)[:, None].expand(3, 2)
    assert accuracy(score, Tensors("text", x, y)) == pytest.approx(4 / 5)


def test_accuracy_is_that_of_a_runs_evaluation(tmp_path):
    trained = untrained("logistic")
    write(graph_of(trained), tmp_path)
    samples = trained.population.test
    data = Tensors(
        "image",
        torch.tensor(samples.x).float() / 255,
        torch.from_numpy(samples.y.astype(np.int64)),
    )
    model = session(tmp_path / "graph.onnx")
    share = accuracy(lambda x: scores(model, x), data)
    assert share == evaluate(trained.module, data).accuracy


def test_turns_of_all_models_alternate():
    calls: list[str] = []

    def call(name):
        calls.append(name)
        return sum(range(20_000))

    turns = cpu_microseconds(
        {
            "a": lambda: call("a"),
            "b": lambda: call("b"),
        }
    )
    assert {name: len(times) for name, times in turns.items()} == {
        "a": TURNS,
        "b": TURNS,
    }
    changes = sum(first != second for first, second in itertools.pairwise(calls))
    assert changes >= 2 * TURNS - 1
    assert min(turns["a"]) > 0


def test_a_ratio_is_taken_turn_by_turn():
    # The machine was ten times slower in the second turn, for both.
    assert relative([2.0, 20.0, 3.0], [4.0, 40.0, 6.0]) == 0.5


def test_a_process_that_only_runs_a_model_takes_its_memory(tmp_path):
    trained = untrained("logistic")
    write(graph_of(trained), tmp_path)
    x = torch.zeros(1, 1, 28, 28)
    peak = peak_memory(tmp_path / "graph.onnx", x)
    # Python, numpy and onnxruntime, but never torch.
    assert peak is None or 20e6 < peak < 150e6
    caller(session(tmp_path / "graph.onnx"), x)()


def test_a_file_that_is_no_model_is_named(tmp_path):
    path = tmp_path / "graph.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(RunError, match=r"a process that only runs .*graph.onnx failed"):
        peak_memory(path, torch.zeros(1, 1, 28, 28))
