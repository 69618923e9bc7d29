"""The rise of the training loss: told once it is sure, counted from the last whole models."""

from fedlearn.records.line import Line, empty_line
from fedlearn.runs.doubt import rises


def lines(*losses: float | None) -> list[Line]:
    lines = [empty_line(n) for n in range(len(losses))]
    for line, loss in zip(lines, losses, strict=True):
        line["train_loss"] = loss
    return lines


FALLING = [2.0, 1.5, 1.2, 1.0, 0.8, 0.7, 0.6, 0.5, 0.5, 0.5, 0.5, 0.5]


def test_a_falling_loss_and_one_bad_cohort_are_no_rise():
    assert not rises(lines(None, *FALLING), 0)
    assert not rises(lines(None, *FALLING, 2.0), 0)  # the mean of five is 0.8


def test_a_loss_that_doubles_is_a_rise():
    assert rises(
        lines(None, *FALLING, 1.2, 1.2, 1.2, 1.2), 0
    )  # (0.5 + 4 * 1.2) / 5 = 1.06, twice 0.5 and more
    assert not rises(lines(None, *FALLING, 1.2, 1.2, 1.2), 0)  # 0.92


def test_a_small_loss_that_doubles_is_chance():
    small = [*FALLING, *[0.01] * 10, *[0.1] * 10]
    assert not rises(lines(None, *small), 0)


def test_after_whole_models_were_sent_it_is_counted_anew():
    risen = lines(None, *FALLING, 1.2, 1.2, 1.2, 1.2)
    assert not rises(risen, 12)
    assert not rises(lines(*[None] * 40), 0)
