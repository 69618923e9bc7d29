"""The verdicts: what is refused, with which figure, and what is chosen of the rest."""

from dataclasses import replace

import pytest

from fedlearn.compress.rows import Candidate, best, judged, unbeaten
from fedlearn.compress.table import cut_lines, table
from fedlearn.compress.variants import Steps, variants
from fedlearn.errors import ConfigError

ORIGINAL = Candidate(
    name="original",
    folder="original",
    files=("graph.onnx", "weights.bin"),
    accuracy=0.900,
    bytes=1000,
    parameters=250,
    cpu_us=50.0,
    cpu_ratio=1.0,
    peak_bytes=60_000_000,
)


def variant(name="small", **changes):
    small = replace(ORIGINAL, name=name, folder=name, bytes=400, cpu_ratio=0.5)
    return replace(small, **changes)


def refusals(*rows, gate=0.5):
    return [row.refusal for row in judged([ORIGINAL, *rows], gate)[1:]]


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({}, ""),
        # Exactly the gate, which floats make a little more.
        ({"accuracy": 0.895}, ""),
        ({"accuracy": 0.894}, "loses 0.60 points, more than 0.5"),
        ({"accuracy": float("nan")}, "loses nan points, more than 0.5"),
        ({"cpu_ratio": 1.05}, ""),
        ({"cpu_ratio": 1.43}, "slower: 1.43 times the CPU time"),
        ({"bytes": 1000}, "not smaller"),
        (
            {"accuracy": 0.5, "cpu_ratio": 13.0},
            "loses 40.00 points, more than 0.5; slower: 13.00 times the CPU time",
        ),
    ],
)
def test_a_refusal_says_its_figure(changes, refusal):
    assert refusals(variant(**changes)) == [refusal]


def test_the_smallest_that_passes_is_chosen_and_never_one_that_failed():
    rows = judged(
        [
            ORIGINAL,
            variant("tiny", bytes=10, accuracy=0.2),
            variant("slow", bytes=20, cpu_ratio=2.0),
            variant("good", bytes=300),
            variant("fast", bytes=300, cpu_us=10.0),
            variant("large", bytes=900, accuracy=0.99),
        ],
        0.5,
    )
    chosen = best(rows)
    assert chosen is not None
    assert chosen.name == "fast"
    lines = table(rows, chosen).splitlines()
    assert [line.split()[0] for line in lines] == ["model", *(row.name for row in rows)]
    assert lines[2].endswith("refused: loses 70.00 points, more than 0.5")
    assert lines[5].endswith("chosen")


def test_nothing_is_chosen_where_all_are_refused():
    assert best(judged([ORIGINAL, variant(accuracy=0.1)], 0.5)) is None
    assert best([ORIGINAL]) is None


def test_the_front_has_what_nothing_beats():
    rows = [
        ORIGINAL,
        variant("a", bytes=100, accuracy=0.5),
        variant("beaten", bytes=200, accuracy=0.4),
        variant("b", bytes=300, accuracy=0.8),
        variant("equal", bytes=300, accuracy=0.7),
    ]
    assert [row.name for row in unbeaten(rows)] == ["a", "b", "original"]


def test_a_cut_is_told_in_three_lines():
    facts = {
        "layer": "conv2",
        "model": "prune-0.5",
        "crossing_bytes": 6272,
        "head_bytes": 20_000,
        "tail_bytes": 400_000,
        "head_cpu_us": 30.0,
        "tail_cpu_us": 9.5,
        "whole_cpu_us": 38.0,
    }
    assert cut_lines(facts).splitlines() == [
        "head: 20.0 kB, 30.0 µs of 38.0",
        "tail: 400 kB, 9.5 µs of 38.0",
        "after 'conv2' of prune-0.5, 6.27 kB cross for each sample",
    ]


def test_steps_stand_alone_and_one_of_each_kind_together():
    names = [v.name for v in variants([0.5, 0.75], [], int8=True, binary=False)]
    assert names == [
        "prune-0.5",
        "prune-0.75",
        "int8",
        "prune-0.5+int8",
        "prune-0.75+int8",
    ]
    both = variants([0.5], [0.25], int8=True, binary=True)
    assert len(both) == 2 * 2 * 3 - 1
    assert both[-1].name == "prune-0.5+low-rank-0.25+binary"


@pytest.mark.parametrize("other", [0.9999998, 0.9999999999999999, 0.99, 1e-300])
def test_different_shares_never_look_the_same(other):
    shares = [0.9999999, other]
    rows = variants(shares, shares, int8=True, binary=False)
    names = [row.name for row in rows]
    assert len(set(names)) == len(names) == 17
    assert f"prune-{other}" in names
    assert f"low-rank-{other}" in names


def test_int8_is_of_the_weights_that_were_trained_in_floats():
    assert Steps(prune=0.5, store="int8").trained == Steps(prune=0.5)
    assert Steps(store="binary").trained == Steps(store="binary")


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ([0.0], "--prune 0: give a share of 1 that goes"),
        ([1.0], "--prune 1: give a share"),
        ([50.0], "--prune 50: give a share"),
        ([float("nan")], "--prune nan: give a share"),
        ([0.5, 0.5], "--prune 0.5 is given twice"),
    ],
)
def test_a_share_is_between_0_and_1(shares, message):
    with pytest.raises(ConfigError, match=message):
        variants(shares, [], int8=False, binary=False)
