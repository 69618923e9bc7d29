"""What one answer may weigh: limits follow from whole cohorts, and from nothing else."""

from typing import Any

import numpy as np
import pytest

from fedlearn.arrays import Change, Entry, Layout, Sparse
from fedlearn.experiments.benchmarks.liars import Case, named, noise, run, scaled
from fedlearn.flower import Received
from fedlearn.runs import bounding
from fedlearn.runs.bounding import AnswerLimits, Bounds
from fedlearn.wire import UPDATE, Header

LAYOUT = Layout((Entry("w", (4,), "float32", True),))
BUFFERED = Layout((*LAYOUT.entries, Entry("mean", (2,), "float32", False)))


def received(
    client: int, length: float, examples: int = 10, buffers: tuple[float, ...] = ()
) -> Received:
    """Return an update along the first weight."""
    floats = np.array([length, 0, 0, 0, *buffers], np.float32)
    header = Header(UPDATE, 0, bytes(8), "raw32", examples=examples)
    return Received(client, header, Change(floats, np.empty(0, np.int64)))


def bounds(layout: Layout = LAYOUT, norm: float = 5, examples: int = 0) -> Bounds:
    return Bounds(layout, AnswerLimits(norm, examples, None, False))


def cohort(made: Bounds, *updates: Received) -> dict[int, Any]:
    """Return client → what its update counts with; the reason of one that is refused."""
    made.begin()
    made.open(len(updates))
    result: dict[int, Any] = {}
    for update in updates:
        free = made.take(made.capped(update))
        if free is not None:
            result[update.client] = free.header.examples
    for client, update_or_none, reason in made.close():
        result[client] = reason
        if update_or_none is not None:
            result[client] = update_or_none.header.examples
    return result


def usual(count: int = 4, length: float = 1.0) -> list[Received]:
    return [received(client, length) for client in range(count)]


@pytest.mark.parametrize("first", [True, False])
def test_a_long_update_is_refused_whenever_it_comes(first):
    odd = received(9, -5.1)
    updates = [odd, *usual()] if first else [*usual(), odd]
    result = cohort(bounds(), *updates)
    assert {result.pop(client) for client in range(4)} == {10}
    assert result[9].startswith("the norm of its update is 5.1 where 1 is usual")
    assert cohort(bounds(), *usual(), received(9, 4.9))[9] == 10
    assert cohort(bounds(norm=0), *usual(), received(9, 1e6))[9] == 10


def test_half_of_what_was_usual_in_five_cohorts_before_is_usual():
    bound = bounds()
    cohort(bound, *usual(length=6))
    # All move less than before: half of what was usual then still is.
    for _ in range(5):
        assert cohort(bound, *usual(), received(9, 14))[9] == 10
    assert "where 1 is usual" in cohort(bound, *usual(), received(9, 14))[9]
    # All move more: nobody is odd.
    assert set(cohort(bound, *usual(length=100)).values()) == {10}


def test_fewer_than_four_answers_tell_nobody_apart():
    assert cohort(bounds(), received(0, 1), received(1, 1), received(2, 80))[2] == 10


def test_a_cohort_of_a_void_attempt_does_not_count():
    bound = bounds()
    cohort(bound, *usual(length=50))
    bound.repeat()
    assert "where 1 is usual" in cohort(bound, *usual(), received(9, 14))[9]


def test_buffers_have_a_limit_of_their_own():
    updates = [received(client, 1, buffers=(2, 0)) for client in range(5)]
    odd = received(9, 1, buffers=(0, 21))
    result = cohort(bounds(BUFFERED), *updates, odd)
    assert result[9].startswith("the change of buffers of its update is 21 where 2")
    assert cohort(bounds(BUFFERED), *updates, received(9, 1, buffers=(0, 19)))[9] == 10


def test_long_updates_that_are_taken_are_told():
    notes: list[str] = []
    remarks: list[tuple[int, str]] = []

    def remark(client: int, text: str) -> None:
        remarks.append((client, text))

    bound = Bounds(LAYOUT, AnswerLimits(5, 0, None, False), notes.append, remark)
    for _ in range(3):
        cohort(bound, *usual(), received(9, 2.6), received(8, 2.4))
    text = "the norm of its update is 2.6, where 1 is usual; it is taken"
    assert remarks == [(9, text)] * 3
    assert notes == [
        "client 9: 3 of its updates were far longer than usual, and were taken; "
        "a lower strategy.max_norm refuses them"
    ]


def test_a_sparse_update_is_as_long_as_its_values():
    places = np.array([1, 4])
    values = np.array([3, 4], np.float32)
    change = Change(Sparse(places, values, 6), np.empty(0, np.int64))
    header = Header(UPDATE, 0, bytes(8), "raw32", examples=10)
    updates = [received(client, 0.5, buffers=(0.3, 0)) for client in range(5)]
    result = cohort(bounds(BUFFERED), *updates, Received(9, header, change))
    assert result[9].startswith("the norm of its update is 3 where 0.5 is usual")


def test_examples_beyond_ten_times_the_usual_do_not_count():
    notes: list[str] = []
    bound = Bounds(LAYOUT, AnswerLimits(5, 0, None, False), notes.append)
    assert cohort(bound, *usual(), received(9, 1, 10**9))[9] == 100
    assert cohort(bound, *usual(), received(9, 1, 10**9))[9] == 100
    assert notes == [
        "client 9: it claims 1000000000 examples and counts as 100 "
        "(strategy.max_examples)"
    ]
    assert cohort(bounds(examples=7), *usual(), received(9, 1, 8)) == dict.fromkeys(
        (0, 1, 2, 3, 9), 7
    )


def test_a_known_share_is_a_limit_or_is_granted():
    exact = AnswerLimits(5, 0, lambda client: 3 + client, True)
    assert cohort(Bounds(LAYOUT, exact), *usual())[0] == 3
    # Agents may have more than their share, and their share whatever is usual.
    share = AnswerLimits(5, 0, lambda client: 500, False)
    result = cohort(Bounds(LAYOUT, share), *usual(), received(9, 1, 450))
    assert (result[0], result[9]) == (10, 450)


def test_without_room_the_longest_are_given_up(monkeypatch):
    bound = bounds()
    cohort(bound, *usual())
    # Room for two updates of four floats.
    monkeypatch.setattr(bounding, "ROOM_BYTES", 40)
    longer = [received(client, 10.0 + client) for client in range(4)]
    result = cohort(bound, *reversed(longer))
    assert [result[client] for client in (0, 1)] == [10, 10]
    assert all("is taken" in result[client] for client in (2, 3))
    # In the first round everybody would be given up: there is no limit then.
    assert cohort(bounds(), *usual(), received(9, 1e6))[9] == 10


def test_a_checkpoint_holds_what_is_usual():
    bound = bounds()
    cohort(bound, *usual(length=6))
    other = bounds()
    other.recall(bound.sync())
    assert cohort(other, *usual(), received(9, 14))[9] == 10
    # One of an earlier version holds nothing of it.
    other.recall({})
    assert "where 1 is usual" in cohort(other, *usual(), received(9, 14))[9]


@pytest.mark.parametrize(
    ("lie", "refused"),
    [(scaled(0, 2**31), 0), (scaled(-12), 10), (noise(3), 10), (named(-700), 0)],
)
def test_one_liar_of_ten_costs_less_than_a_point(lie, refused):
    accuracy, failed = run(Case("", lie))
    assert accuracy >= 0.94  # 0.950 without a lie
    assert failed >= refused
