"""Unsure answers go to a larger model, and never more of them than the budget allows."""

import json
import math

import numpy as np
import pytest

from fedlearn.clients.placement.routing import (
    Router,
    Routing,
    _regressed,
    fit,
    fitted_corrections,
    margins,
    read,
    scored,
    sureness,
    write,
)
from fedlearn.errors import UserError

GENERATOR = np.random.default_rng(3)


def test_a_margin_is_the_highest_score_less_the_next():
    scores = np.array([[1.0, 5.0, 3.0], [2.0, 2.0, -1.0]])
    assert margins(scores).tolist() == [2.0, 0.0]
    random = GENERATOR.normal(size=(200, 10))
    # The readable twin sorts.
    expected = [sorted(row)[-1] - sorted(row)[-2] for row in random.tolist()]
    assert margins(random).tolist() == expected
    assert margins(np.ones((2, 1))).tolist() == [math.inf] * 2


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.999, 1.0])
def test_a_threshold_sends_what_the_share_allows(share):
    scores = GENERATOR.normal(size=(500, 10))
    below = (margins(scores) < fit(margins(scores), share)).sum()
    assert below == math.floor(500 * share)


def test_equal_margins_are_sent_together_or_not_at_all():
    scores = np.array([[0.0, 1.0]] * 4 + [[0.0, 5.0]] * 4)
    values = margins(scores)
    assert (values < fit(values, 0.3)).sum() == 0
    assert (values < fit(values, 0.5)).sum() == 4


def test_what_routing_comes_to_is_counted_by_hand():
    small = np.array([[0, 1], [3, 0], [0, 9], [0.2, 0]])
    large = np.array([[1, 0], [0, 1], [0, 1], [0, 1]])
    labels = np.array([0, 0, 1, 1])
    score = scored(small, large, labels, Routing(2.0, 1.0))
    # Samples 0 and 3 are sent, and become right.
    assert (score.small, score.large, score.routed) == (0.5, 0.75, 1.0)
    assert score.share_sent == 0.5


@pytest.mark.parametrize("size", [1, 7, 64])
def test_the_budget_holds_whatever_comes(size):
    router = Router(Routing(threshold=math.inf, share=0.3))
    sent = 0
    for number in range(1, 301):
        sent += len(router.unsure(GENERATOR.normal(size=(size, 5))))
        assert sent <= 0.3 * number * size + 1e-9
    assert sent >= 0.29 * 300 * size - 1


def test_of_a_batch_the_least_sure_are_sent_first():
    router = Router(Routing(threshold=10.0, share=0.5))
    scores = np.array([[0, 4.0], [0, 1.0], [0, 50.0], [0, 2.0]])
    assert router.unsure(scores).tolist() == [1, 3]


def test_what_could_not_be_sent_is_budget_again():
    router = Router(Routing(threshold=10.0, share=0.5))
    scores = np.zeros((4, 2))
    router.unsent(len(router.unsure(scores)))
    assert len(router.unsure(scores)) == 4


def test_a_margin_is_corrected_by_both_classes_as_computed_by_hand():
    scores = np.array([[1.0, 5.0, 3.0], [9.0, 2.0, 8.5]])
    routing = Routing(0.0, 1.0, first=(0.1, 0.2, 0.3), second=(10.0, 20.0, 30.0))
    assert sureness(scores, routing).tolist() == pytest.approx([32.2, 30.6])
    assert sureness(scores, Routing(0.0, 1.0)).tolist() == [2.0, 0.5]


def confused(count: int, seed: int):
    """Return scores and labels of three classes, of which the first two are confused."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 3, count)
    scores = generator.normal(size=(count, 3))
    # The third class is known well, by little.
    scores[np.arange(count), labels] += np.array([4.0, 4.0, 2.5])[labels]
    # Where the label is of the first two, a coin decides between them, however sure.
    is_coin = (labels < 2) & (generator.random(count) < 0.5)
    scores[is_coin] = scores[is_coin][:, [1, 0, 2]]
    return scores, labels


def test_corrections_send_more_of_the_wrong_answers_of_classes_that_are_confused():
    scores, labels = confused(600, seed=1)
    first, second = fitted_corrections(scores, labels)
    # An answer of the third class is the surest one.
    assert first[2] > max(first[:2])
    others, other_labels = confused(600, seed=2)
    is_wrong = others.argmax(-1) != other_labels
    caught = []
    for routing in (Routing(0.0, 0.3), Routing(0.0, 0.3, first=first, second=second)):
        values = sureness(others, routing)
        caught.append(is_wrong[np.argsort(values)[:180]].sum())
    assert caught[1] > 1.1 * caught[0]


def test_the_regression_ends_where_its_slope_is_zero():
    scores, labels = confused(200, seed=3)
    columns = np.column_stack([margins(scores), np.ones(len(scores))])
    is_wrong = scores.argmax(-1) != labels
    weights = _regressed(columns, is_wrong)

    def cost(weights) -> float:
        logits = columns @ weights
        fitting = np.logaddexp(0, np.where(is_wrong, -logits, logits)).sum()
        return fitting + 5.0 * weights[0] ** 2

    # No step in any direction is better: the readable twin.
    for step in ([1e-3, 0], [-1e-3, 0], [0, 1e-3], [0, -1e-3]):
        assert cost(weights + step) > cost(weights)


def test_margins_that_say_nothing_are_not_corrected():
    labels = np.array([0, 1, 0, 1])
    assert fitted_corrections(np.ones((4, 1)), labels) == ((), ())
    assert fitted_corrections(np.tile([0.0, 1.0], (4, 1)), labels) == ((), ())
    # The surest answers are the wrong ones.
    scores = np.array([[5.0, 0], [5.0, 0], [1.0, 0], [1.0, 0]] * 20)
    assert fitted_corrections(scores, np.array([1, 1, 0, 0] * 20)) == ((), ())


def test_a_routing_survives_its_file(tmp_path):
    path = tmp_path / "routing.json"
    write(path, Routing(-1.5, 0.3, "output", {"seed": 1}, (1.0, 2.0), (0.5, -0.5)))
    expected = Routing(-1.5, 0.3, "output", first=(1.0, 2.0), second=(0.5, -0.5))
    assert read(path) == expected
    assert json.loads(path.read_text())["facts"] == {"seed": 1}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "no JSON"),
        ("[]", "no routing file of the format"),
        ('{"format": "fedlearn-routing-0"}', "no routing file of the format"),
        ('{"threshold": "x", "share": 0.3}', "threshold has to be a number"),
        ('{"threshold": NaN, "share": 0.3}', "threshold has to be a number"),
        ('{"threshold": 1, "share": 1.5}', "share has to be a number from 0 to 1"),
        ('{"threshold": 1, "share": true}', "share has to be a number"),
        ('{"threshold": 1, "share": 1, "output": 3}', "output is no text"),
        ('{"threshold": 1, "share": 1, "first": 3}', "first has to be a list"),
        (
            '{"threshold": 1, "share": 1, "first": ["x"]}',
            r"first\[0\] has to be a number",
        ),
        ('{"threshold": 1, "share": 1, "first": [1]}', "as long as each other"),
    ],
)
def test_a_file_that_is_no_routing_is_told(tmp_path, text, words):
    path = tmp_path / "r.json"
    if "threshold" in text:
        text = text.replace("{", '{"format": "fedlearn-routing-1", ', 1)
    path.write_text(text)
    with pytest.raises(UserError, match=words):
        read(path)
    with pytest.raises(UserError, match="cannot be read"):
        read(tmp_path / "absent.json")
