"""Steps after a model, on scores that a reader can check."""

import math

import pytest

from fedlearn.clients.infer.answer_steps import parsed
from fedlearn.errors import UserError

LABELS = ("car", "bus", "bike")


def answer(*scores, version="1"):
    best = max(range(len(scores)), key=scores.__getitem__)
    return {
        "sample": "a",
        "version": version,
        "label": LABELS[best],
        "score": scores[best],
        "output": list(scores),
    }


FAILED = {"sample": "b", "version": "1", "error": "no picture"}
# A model whose output is no list of scores.
PLAIN = {"sample": "c", "version": "1", "output": [[1.0, 2.0], [3.0, 4.0]]}


def applied(text, *answers):
    steps, _ = parsed(text)
    group = [dict(item) for item in answers]
    for step in steps:
        group = step.apply(group, LABELS)
    return group


def test_softmax():
    [first, *others] = applied("softmax", answer(0.0, math.log(3)), FAILED, PLAIN)
    assert first["label"] == "bus" and first["score"] == pytest.approx(0.75)
    assert first["output"] == pytest.approx([0.25, 0.75])
    assert others == [FAILED, PLAIN]


def test_the_average_goes_over_the_last_answers_of_a_version():
    steps, _ = parsed("average:2")
    first = [answer(4.0, 0.0), answer(0.0, 2.0)]
    [_, second] = steps[0].apply(first, LABELS)
    assert second["output"] == [2.0, 1.0] and second["label"] == "car"
    # It goes on over groups, and not over versions.
    [third] = steps[0].apply([answer(0.0, 6.0)], LABELS)
    assert third["output"] == [0.0, 4.0] and third["label"] == "bus"
    [fourth] = steps[0].apply([answer(1.0, 0.0, version="2")], LABELS)
    assert fourth["output"] == [1.0, 0.0]


def test_the_threshold_leaves_out_what_is_not_sure():
    group = applied("threshold:2", answer(1.0, 0.0), answer(2.0, 0.0), FAILED, PLAIN)
    assert [item.get("score") for item in group] == [2.0, None, None]


def test_the_highest_classes():
    [first, second, _] = applied("top:2", answer(1.0, 5.0, 3.0), FAILED, PLAIN)
    assert first["top"] == [
        {"label": "bus", "score": 5.0},
        {"label": "bike", "score": 3.0},
    ]
    assert "output" not in first and second == FAILED


def test_counting_is_the_last_step():
    steps, count_s = parsed("softmax,threshold:0.6,count:60s")
    assert len(steps) == 2 and count_s == 60.0
    assert parsed("count:1.5") == ([], 1.5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("topp:1", "Did you mean 'top'?"),
        ("softmax:1", "softmax has no value"),
        ("average:0", "give average:NUMBER from 1 to 1000"),
        ("top", "give top:NUMBER"),
        ("threshold:x", "give threshold:NUMBER"),
        ("threshold:inf", "give threshold:NUMBER"),
        ("count:0", "give count:NUMBER from 1 to 86400"),
        ("count:60,top:1", "nothing comes after count"),
    ],
)
def test_steps_that_are_none(text, words):
    with pytest.raises(UserError) as error:
        parsed(text)
    assert words in str(error.value)
