"""Which values a trial gets: asked of Optuna, as a function of the trials that ended and of the seed.

Nothing is kept between two questions. Optuna's study is made anew from the trials each time, and its sampler is seeded by
(seed, number of the trial): a search that was killed goes on with the values that it would have had.

Akiba, Sano, Yanase, Ohta, Koyama, "Optuna", KDD 2019; TPE: Bergstra et al., NeurIPS 2011; NSGA-II: Deb et al., 2002.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedlearn.errors import ConfigError
from fedlearn.seeds import derive
from fedlearn.tuning.objectives import Objectives
from fedlearn.tuning.space import Range, Space, Value, Values

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

SAMPLERS = ("random", "tpe", "nsga2")

GENERATION = 10
"""Trials of one generation of NSGA-II. Optuna's 50 is for thousands of trials; here a search has tens."""


@dataclass(frozen=True)
class Told:
    """A trial as a sampler sees it. state: "complete", "pruned", "failed", or "running" of one of the same batch.

    scores: one per objective, of a complete trial. pruned: (round, best accuracy) at which it was given up. memory: what the
    sampler keeps with a trial.
    """

    values: Values
    state: str
    scores: Sequence[float] | None
    pruned: tuple[int, float] | None
    memory: dict[str, Any]


def require_optuna(sampler: str) -> None:
    """Raise ConfigError where Optuna is not installed."""
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise ConfigError(
            f"--sampler {sampler} needs Optuna: pip install 'fedlearn[tune]'; --grid works without it"
        ) from None


def propose(
    sampler: str,
    space: Space,
    objectives: Objectives,
    told: Sequence[Told],
    seed: int,
    number: int,
) -> tuple[Values, dict[str, Any]]:
    """Return the values of a trial, and what the sampler keeps with it. told: those before it, in order."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {axis.key: _distribution(axis) for axis in space}
    study = optuna.create_study(
        directions=objectives.directions,
        sampler=_sampler(sampler, derive(seed, "tune", number) % 2**32),
    )
    study.add_trials(
        [_frozen(trial, space, distributions, objectives) for trial in told]
    )
    asked = study.ask(distributions)
    memory = json.loads(
        json.dumps(study.get_trials(deepcopy=False)[-1].system_attrs)
    )  # as a search that is resumed reads it
    return {axis.key: _value(axis, asked.params[axis.key]) for axis in space}, memory


def _sampler(name: str, seed: int) -> BaseSampler:
    from optuna import samplers

    if name == "nsga2":
        return samplers.NSGAIISampler(population_size=GENERATION, seed=seed)
    return (
        samplers.TPESampler(seed=seed)
        if name == "tpe"
        else samplers.RandomSampler(seed=seed)
    )


def _distribution(axis: Range) -> BaseDistribution:
    from optuna import distributions as kinds

    if axis.kind == "choice":  # by position: a list in a config is no value of Optuna's
        return kinds.CategoricalDistribution(range(len(axis.choices)))
    if axis.kind == "int":
        return kinds.IntDistribution(int(axis.low), int(axis.top), step=int(axis.step))
    return kinds.FloatDistribution(
        axis.low, axis.top, log=axis.kind == "log", step=axis.step or None
    )


def _value(axis: Range, param: Any) -> Value:
    return axis.choices[param] if axis.choices else axis.rounded(param)


def _frozen(
    trial: Told,
    space: Space,
    distributions: dict[str, BaseDistribution],
    objectives: Objectives,
) -> FrozenTrial:
    from optuna.trial import TrialState, create_trial

    values = {axis.key: trial.values[axis.key] for axis in space}
    params = {
        axis.key: axis.choices.index(values[axis.key])
        if axis.choices
        else values[axis.key]
        for axis in space
    }
    states = {
        "complete": TrialState.COMPLETE,
        "running": TrialState.RUNNING,
        "pruned": TrialState.PRUNED,
        # As if given up before its first round: TPE ignores failures, and would look there again. (It knows that of one objective only.)
        "failed": TrialState.PRUNED if len(objectives.names) == 1 else TrialState.FAIL,
    }
    sign = 1 if objectives.directions[0] == "maximize" else -1
    return create_trial(
        state=states[trial.state],
        values=list(trial.scores) if trial.scores else None,
        params=params,
        distributions=distributions,
        intermediate_values={trial.pruned[0]: sign * trial.pruned[1]}
        if trial.pruned
        else {},
        system_attrs=trial.memory,
    )
