"""Verdicts on runs written by hand.

`tests.runfolder` has the usual one, which crosses 0.6 at round 3.5.
"""

import json
import math
from typing import Any

import pytest

from fedlearn.claims.sections import Claim
from fedlearn.claims.verdicts import Judgement, judge
from fedlearn.records.reading import read
from tests.runfolder import line, round_zero, write_run


@pytest.fixture
def runs(tmp_path):
    """Return (plain, seed) → run, and a twin of each.

    The three end at 0.8, 0.7 and 0.5 after crossing lines from 0.4 at round 1.
    """

    def lines(last: float, bytes_up: int = 1000):
        return (
            round_zero(0.1),
            line(1, 0.4, bytes_up=bytes_up),
            line(2, None, bytes_up=bytes_up),
            line(3, last, bytes_up=bytes_up),
        )

    made = {}
    for seed, last in enumerate((0.8, 0.7, 0.5)):
        made["plain", seed] = read(
            write_run(tmp_path / f"plain{seed}", lines=lines(last))
        )
        made["twin", seed] = read(
            write_run(tmp_path / f"twin{seed}", lines=lines(0.8, bytes_up=5000))
        )
    return made


def judged(runs, failed=None, **claim) -> Judgement:
    return judge(Claim(**claim), runs, (0, 1, 2), failed or {})


def test_rounds_to_a_target_are_interpolated_and_the_median_counts(runs):
    """0.4 at round 1 and 0.8 at round 3: 0.6 at round 2; with 0.7, at 2 1/3; with 0.5, never."""
    found = judged(
        runs, what="rounds", target=0.6, at_most=2.4, paper=87, figure="Table 1"
    )
    assert list[Any](found.values) == [
        pytest.approx(2.0),
        pytest.approx(2 + 1 / 3),
        None,
    ]
    assert (found.verdict, found.ours) == ("holds", "2.3 (2 … not reached)")
    assert (found.claim, found.wanted, found.paper, found.point) == (
        "rounds to 60 %",
        "≤ 2.4",
        "87 (Table 1)",
        (87, 0.6),
    )
    assert judged(runs, what="rounds", target=0.6, at_most=2.3).verdict == "missed"


@pytest.mark.parametrize(
    ("by", "verdict"), [("median", "holds"), ("mean", "missed"), ("each", "missed")]
)
def test_what_the_limits_are_for(runs, by, verdict):
    """Accuracies 0.8, 0.7, 0.5: their median is 0.7, their mean 0.667."""
    assert judged(runs, what="accuracy", at_least=0.68, by=by).verdict == verdict
    assert judged(runs, what="accuracy", at_least=0.5, by="each").verdict == "holds"


def test_a_target_that_one_seed_never_reaches_fails_each_and_the_mean(runs):
    assert (
        judged(runs, what="rounds", target=0.6, at_most=100, by="mean").verdict
        == "missed"
    )
    assert (
        judged(runs, what="rounds", target=0.6, at_most=100, by="each").verdict
        == "missed"
    )


def test_differences_are_taken_seed_by_seed(runs):
    found = judged(
        runs, what="accuracy", of="twin", minus="plain", at_least=0.1, at_most=0.1
    )
    assert list[Any](found.values) == [0.0, pytest.approx(0.1), pytest.approx(0.3)]
    assert found.ours == "+10.00 points (+0.00 points … +30.00 points)"
    assert found.claim == "accuracy: twin − plain"


def test_the_median_of_the_last_evaluations(runs):
    found = judged(runs, what="accuracy", last=3, at_least=0.0, by="each")
    wanted = []
    for seed in (0, 1, 2):
        told = [
            line["accuracy"]
            for line in runs["plain", seed].lines
            if line["accuracy"] is not None
        ]
        wanted.append(sorted(told[-3:])[1])
    assert list[Any](found.values) == pytest.approx(wanted)
    assert found.claim == "accuracy, median of the last 3 evaluations"
    assert judged(runs, what="accuracy", last=100, at_least=0.0).verdict == "missed"


def test_ratios_of_bytes(runs):
    """4,000 a round against 8,000: in all 12,000 and 24,000."""
    found = judged(runs, what="bytes", of="twin", over="plain", at_least=2)
    assert (found.values, found.ours, found.verdict) == (
        (2.0, 2.0, 2.0),
        "2× (2× … 2×)",
        "holds",
    )
    # to 0.6: twin at round 2 of 3 (8,000 + 8,000 / 2 · …): between 8,000 and 24,000 half-way
    assert (
        judged(
            runs, what="bytes", target=0.6, of="twin", at_most=16_000, by="each"
        ).verdict
        == "holds"
    )
    assert (
        judged(runs, what="bytes", target=0.6, of="twin", at_most=15_999).verdict
        == "missed"
    )


def test_an_order_holds_where_the_other_never_gets_there(runs):
    found = judge(
        Claim(what="rounds", target=0.6, of="twin", minus="plain", at_most=0),
        runs,
        (2,),
        {},
    )
    assert (found.verdict, found.values, found.ours) == (
        "holds",
        (None,),
        "other not reached",
    )
    both = judge(
        Claim(what="rounds", target=0.9, of="twin", minus="plain", at_most=0),
        runs,
        (2,),
        {},
    )
    assert both.verdict == "missed"


def test_accuracy_at_a_round_and_the_best_up_to_it(runs):
    assert (
        judged(
            runs, what="accuracy", round=1, at_least=0.4, at_most=0.4, by="each"
        ).verdict
        == "holds"
    )
    assert (
        judged(
            runs, what="best_accuracy", round=2, at_least=0.4, at_most=0.4, by="each"
        ).verdict
        == "holds"
    )
    assert (
        judged(runs, what="best_accuracy", at_least=0.8, by="each").verdict == "missed"
    )
    nothing = judged(runs, what="accuracy", round=2, at_least=0.0)
    assert (nothing.verdict, nothing.values) == ("missed", (None, None, None))


def test_a_known_miss_stays_one_until_it_holds(runs):
    found = judged(runs, what="accuracy", at_least=0.9, known="too few rounds")
    assert (found.verdict, found.why) == ("known miss", "too few rounds")
    assert (
        "take known out"
        in judged(runs, what="accuracy", at_least=0.1, known="too few rounds").why
    )
    lost = judged(
        runs,
        {("plain", 1): "no room"},
        what="accuracy",
        at_least=0.9,
        known="too few rounds",
    )
    assert (lost.verdict, lost.why) == (
        "missed",
        "a run failed (plain, seed 1: no room)",
    )


def test_a_failed_run_fails_its_claims_and_no_others(runs):
    failed = {("twin", 1): "it diverged"}
    found = judged(runs, failed, what="accuracy", minus="twin", at_least=-1)
    assert (found.verdict, found.why) == (
        "missed",
        "a run failed (twin, seed 1: it diverged)",
    )
    assert judged(runs, failed, what="accuracy", at_least=0.5).verdict == "holds"


def test_hashes_of_twins(runs):
    assert judged(runs, what="hash", of="twin", same_as="plain").verdict == "holds"
    path = runs["twin", 1].folder / "summary.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"model_sha256": "f" * 64})
    )
    found = judged(
        {**runs, ("twin", 1): read(path.parent)},
        what="hash",
        of="twin",
        same_as="plain",
    )
    assert (found.verdict, found.why) == (
        "missed",
        "seed 1: ffffffffffff and 0123456789ab",
    )


def test_a_hash_counts_on_its_own_platform_only(runs):
    own = "x86_64 torch 2.13.0"  # what tests.runfolder writes, which has no processor
    assert (
        judged(runs, what="hash", sha256={own: "0123456789abcdef" * 4}).verdict
        == "holds"
    )
    wrong = judged(runs, what="hash", sha256={own: "0" * 64})
    assert (wrong.verdict, wrong.why) == ("missed", f"on {own} it is 000000000000")
    other = judged(runs, what="hash", sha256={"aarch64 torch 2.13.0": "0" * 64})
    assert (other.verdict, other.why) == ("skipped", f"no hash is recorded for {own}")


def test_loss_of_the_last_round_that_has_one(runs):
    found = judged(runs, what="loss", at_most=1.3)
    assert list[Any](found.values) == [
        pytest.approx(1.2),
        pytest.approx(1.3),
        pytest.approx(1.5),
    ]
    assert math.isclose(float(found.ours.split()[0]), 1.3)
