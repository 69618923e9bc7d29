"""Proposals are a function of the trials and the seed, lie in their ranges, and learn."""

import math
import statistics

import pytest

from fedlearn import config
from fedlearn.tuning.objectives import Objectives
from fedlearn.tuning.sampling import SAMPLERS, SampledTrial, propose
from fedlearn.tuning.space import Space, parse_space

pytest.importorskip(
    "optuna", reason="Optuna is not installed: pip install 'fedlearn[tune]'"
)

BASE = config.validate({}, "test")
AXES = parse_space(
    BASE,
    [
        "train.lr=log:0.001:10",
        "train.momentum=lin:0:0.9:0.4",
        "train.epochs=int:1:9:3",
        "codec.up=choice:raw32,q8,q4",
    ],
)
ONE, TWO = Objectives(("accuracy",)), Objectives(("accuracy", "bytes"))


def search(
    sampler: str,
    asked: Objectives,
    trials: int,
    seed: int = 0,
    axes: Space = AXES,
    flawless: bool = False,
) -> list[SampledTrial]:
    """Search for lr = 0.1; unless flawless, every fifth trial fails and every seventh is pruned."""
    told: list[SampledTrial] = []
    for number in range(1, trials + 1):
        values, memory = propose(sampler, axes, asked, told, seed, number)
        good = 1 / (1 + abs(math.log10(float(values["train.lr"]) / 0.1)))  # type: ignore[arg-type]
        epochs = float(values.get("train.epochs", 1))  # type: ignore[arg-type]
        scores = [good, 100.0 * epochs][: len(asked.names)]
        fails, pruned = (
            not (flawless or number % 5),
            not (flawless or number % 7) and asked is ONE,
        )
        if fails:
            told.append(SampledTrial(values, "failed", None, None, memory))
        elif pruned:
            told.append(SampledTrial(values, "pruned", None, (3, good), memory))
        else:
            told.append(SampledTrial(values, "complete", scores, None, memory))
    return told


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("asked", [ONE, TWO])
def test_the_same_seed_gives_the_same_trials_and_all_lie_in_their_ranges(
    sampler, asked
):
    found = search(sampler, asked, 25)
    assert found == search(sampler, asked, 25)
    assert found != search(sampler, asked, 25, seed=1)
    assert len({t.values["train.lr"] for t in found}) > 10
    for trial in found:
        values = trial.values
        assert list(values) == [axis.key for axis in AXES]
        lr = float(values["train.lr"])  # type: ignore[arg-type]
        assert 0.001 <= lr <= 10 and lr == float(f"{lr:.3g}")
        assert values["train.momentum"] in (0, 0.4, 0.8) and values["train.epochs"] in (
            1,
            4,
            7,
        )
        assert values["codec.up"] in ("raw32", "q8", "q4")


def distance(sampler: str) -> float:
    """Return the median distance of late trials from lr = 0.1, over eight seeds.

    In powers of ten.
    """
    late = [
        trial
        for seed in range(8)
        for trial in search(sampler, ONE, 30, seed, AXES[:1], flawless=True)[-10:]
    ]
    rates = [float(trial.values["train.lr"]) for trial in late]  # type: ignore[arg-type]
    return statistics.median(abs(math.log10(rate / 0.1)) for rate in rates)


def test_tpe_learns_where_random_search_does_not():
    assert distance("tpe") < 0.7 * distance("random")


def test_tpe_leaves_a_region_where_everything_fails():
    (axis,) = parse_space(BASE, ["train.lr=log:0.001:10"])
    told: list[SampledTrial] = []
    for number in range(1, 31):
        values, memory = propose("tpe", (axis,), ONE, told, 0, number)
        lr = float(values["train.lr"])  # type: ignore[arg-type]
        told.append(
            SampledTrial(values, "failed", None, None, memory)
            if lr > 0.1
            else SampledTrial(values, "complete", [lr], None, memory)
        )
    assert sum(trial.state == "failed" for trial in told[:10]) >= 3
    assert sum(trial.state == "failed" for trial in told[20:]) <= 5


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_trials_of_a_batch_differ(sampler):
    told = search(sampler, ONE, 15, flawless=True)
    for number in range(16, 20):
        values, memory = propose(sampler, AXES, ONE, told, 0, number)
        told.append(SampledTrial(values, "running", None, None, memory))
    assert len({trial.values["train.lr"] for trial in told[15:]}) >= (
        2 if sampler == "nsga2" else 4
    )
