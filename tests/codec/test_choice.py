"""The choice of codecs: each rule once, at its edge, and every codec chosen exists."""

from dataclasses import replace

import pytest

from fedlearn.codec import codec
from fedlearn.codec.choice import Situation, choose

USUAL = Situation(parameters=199_210, clients=100, cohort=10, rounds=200)


@pytest.mark.parametrize(
    ("changed", "up", "down", "why"),
    [
        ({}, "eden1", "pred+cvq(1,1)", "a bit a value"),
        ({"link_mbps": 1000.0}, "f16", "f16", "in 6 ms"),  # 199,210 * 32 bits
        ({"link_mbps": 100.0}, "eden1", "pred+cvq(1,1)", "a bit a value"),  # 64 ms
        ({"link_mbps": 0.5}, "uvq(0.1)", "pred+cvq(0.5,1)", "every byte counts"),
        (
            {"link_mbps": 0.5, "parameters": 49_999},
            "eden1",
            "pred+cvq(1,1)",
            "49,999 parameters",
        ),
        ({"link_mbps": 0.5, "rounds": 99}, "eden1", "pred+cvq(1,1)", "9.9 times"),
        (
            {"link_mbps": 0.5, "rounds": 100},
            "uvq(0.1)",
            "pred+cvq(0.5,1)",
            "every byte counts",
        ),
        (
            {"link_mbps": 0.5, "cohort": 9, "rounds": 400},
            "eden1",
            "pred+cvq(1,1)",
            "9 clients",
        ),
        ({"parameters": 1999}, "q8", "f16", "headers"),
        ({"averages": False}, "q4", "pred+cvq(1,1)", "one by one"),
        ({"whole_models": True}, "eden1", "f16", "whole models"),
    ],
)
def test_each_rule(changed, up, down, why):
    made = choose(replace(USUAL, **changed))
    assert (made.up, made.down) == (up, down)
    assert why in made.why
    assert codec(up) and codec(down)
