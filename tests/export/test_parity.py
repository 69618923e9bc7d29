"""What counts as the same model, with scores that a reader can check by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedlearn.data.samples import Samples
from fedlearn.errors import ModelError
from fedlearn.export.parity import TIE, TOLERANCE, Parity, check, check_graph, compare
from fedlearn.export.session import at_full_length, scorer
from tests.export.short import short
from tests.export.test_onnx import of_module


class Sum(torch.nn.Module):
    """Scores that are close together: the sum of all pixels, and a little more of it."""

    def __init__(self, apart: float):
        super().__init__()
        self.apart = torch.nn.Parameter(torch.tensor([0.0, apart]))

    def forward(self, x):
        scores = torch.zeros(len(x), 10) - 1
        scores[:, :2] = self.apart
        return scores


def by_torch(trained):
    def score(inputs):
        with torch.no_grad():
            return trained.module(torch.from_numpy(inputs)).numpy()

    return score


def changed(trained, change):
    """Return a scorer whose scores for classes 0 and 1 are changed."""

    def score(inputs):
        scores = by_torch(trained)(inputs)
        scores[:, :2] += np.array(change, np.float32)
        return scores

    return score


def test_the_model_itself_holds():
    trained = short("logistic", "data.name=digits")
    parity = compare(trained, by_torch(trained))
    assert parity.holds and parity.largest == 0 and parity.ties == 0
    assert parity.targets == 12
    assert parity.accuracy == parity.torch_accuracy
    check(parity, "torch")


def test_two_scores_within_a_tie_may_change_places():
    trained = of_module(Sum(TIE / 2))
    parity = compare(trained, changed(trained, (TIE, 0)), ((12, None),))
    assert (parity.ties, parity.changed) == (12, 0)
    assert parity.holds


def test_two_scores_farther_apart_may_not():
    trained = of_module(Sum(4 * TIE))
    parity = compare(trained, changed(trained, (5 * TIE, 0)), ((4, 8), (12, None)))
    # Counted in both passes.
    assert (parity.ties, parity.changed) == (0, 20)
    assert parity.largest < TOLERANCE
    with pytest.raises(ModelError, match=r"onnx: .* 20 targets have another"):
        check(parity, "onnx")


@pytest.mark.parametrize("wrong", [2 * TOLERANCE, np.nan, np.inf])
def test_a_score_that_is_off_is_refused_with_its_figure(wrong):
    trained = of_module(Sum(1.0))
    parity = compare(trained, changed(trained, (0, wrong)), ((1, 2), (12, None)))
    assert not parity.holds
    with pytest.raises(
        ModelError, match=r"differ by up to (2\.0e-04|nan|inf) \(at most 1e-04"
    ):
        check(parity, "onnx")


def test_a_small_batch_alone_can_be_what_is_wrong():
    trained = of_module(Sum(1.0))

    def score(inputs):
        return by_torch(trained)(inputs) + (1 if len(inputs) == 2 else 0)

    parity = compare(trained, score, ((1, 2), (2, 4), (12, None)))
    assert parity.largest == 1 and not parity.holds
    # Accuracy is that of all samples.
    assert parity.accuracy == parity.torch_accuracy


def test_scores_of_another_shape_are_refused():
    trained = short("logistic", "data.name=digits")
    with pytest.raises(
        ModelError, match=r"gives scores \[1, 9\], the trained one \[1, 10\]"
    ):
        compare(trained, lambda inputs: by_torch(trained)(inputs)[:, :9])


def test_a_model_without_test_samples_cannot_be_proven():
    trained = short("logistic", "data.name=digits")
    empty = Samples(trained.population.test.x[:0], trained.population.test.y[:0])
    trained = replace(trained, population=replace(trained.population, test=empty))
    with pytest.raises(ModelError, match="no test samples"):
        compare(trained, by_torch(trained))


def test_padded_characters_are_compared_but_not_counted():
    trained = short("lstm-char", samples=4)
    parity = compare(trained, by_torch(trained), ((2, None),))
    assert 0 < parity.targets <= (trained.population.test.y != -100).sum()
    assert parity.holds


def test_a_scorer_of_full_texts_scores_shorter_ones():
    trained = short("lstm-char", samples=4)
    length = trained.population.input_shape[0]
    lengths = []

    def full(inputs):
        lengths.append(inputs.shape[1])
        return by_torch(trained)(inputs)

    parity = compare(trained, at_full_length(full, length), ((1, None),))
    assert set(lengths) == {length}
    assert parity.holds


def test_a_file_that_is_no_graph_is_refused_by_name(tmp_path):
    graph = tmp_path / "graph.onnx"
    graph.write_bytes(b"no graph")
    with pytest.raises(ModelError, match=r"onnx.checker refuses graph.onnx: "):
        check_graph(graph)
    with pytest.raises(ModelError, match=r"ONNX Runtime does not load graph.onnx: "):
        scorer(graph)


def test_a_parity_of_nan_does_not_hold():
    parity = Parity(float("nan"), 0, 0, 1, 1.0, 1.0)
    assert not parity.holds
