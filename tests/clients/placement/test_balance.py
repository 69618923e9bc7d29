"""Two choices share a load nearly as evenly as seeing all, and far better than one."""

import math
import random

import pytest

from fedlearn.clients.placement.balance import expected_wait_s, of_two, shortest


def loads(balls: int, choose) -> list[int]:
    """Return how many of as many balls as bins each bin gets."""
    bins = [0] * balls
    for _ in range(balls):
        bins[choose(bins)] += 1
    return bins


def test_two_choices_leave_no_bin_as_full_as_one_choice_does():
    generator = random.Random(1)
    count = 500
    one = max(loads(count, lambda bins: generator.randrange(count)))
    two = max(loads(count, lambda bins: of_two(bins, generator)))
    # Mitzenmacher: about log n / log log n, and about log log n / log 2.
    assert two <= 4 < one


def test_a_slow_machine_gets_fewer():
    generator = random.Random(2)
    service_s = [0.010, 0.010, 0.040]
    queues = [0, 0, 0]
    for number in range(3000):
        waits_s = [
            expected_wait_s(queue, each_s)
            for queue, each_s in zip(queues, service_s, strict=True)
        ]
        queues[of_two(waits_s, generator)] += 1
        # Every turn each machine answers as many as it can.
        for place, each_s in enumerate(service_s):
            if number % round(each_s / 0.005) == 0:
                queues[place] = max(0, queues[place] - 1)
    assert max(queues) < 20


def test_of_two_is_the_shorter_of_a_pair_that_is_drawn():
    generator = random.Random(3)
    waits_s = [3.0, 1.0, 2.0]
    places = [of_two(waits_s, generator) for _ in range(3000)]
    # The longest is never chosen, the shortest in two of three pairs.
    assert places.count(0) == 0
    assert places.count(1) / 3000 == pytest.approx(2 / 3, abs=0.03)
    assert shortest(waits_s) == 1


def test_what_is_down_is_not_drawn_unless_all_are():
    generator = random.Random(4)
    assert {of_two([math.inf, 5.0, math.inf], generator) for _ in range(50)} == {1}
    assert of_two([math.inf, math.inf], generator) in (0, 1)
    assert of_two([1.0], generator) == 0
