"""Of two places that compute a request the first one answers it, once."""

from typing import Any

from fedlearn.clients.infer.first import First
from fedlearn.clients.infer.refusal import Refusal


def test_the_first_outcome_is_delivered_and_no_other_one():
    outcomes: list[Any] = []
    first: Any = First(lambda model, outcome: outcomes.append((model, outcome)))
    assert not first.is_over
    first.deliver("centre's", [1])
    first.deliver("device's", [2])
    first.deliver("device's", Refusal(503, "busy", "it is busy"))
    assert outcomes == [("centre's", [1])]
    assert first.is_over
