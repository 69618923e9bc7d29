"""Which values a trial gets: Optuna's choice, from the trials that ended and the seed.

Nothing lasts from one question to the next. Optuna's study is made anew from the trials
each time, and its sampler is seeded by (seed, number of the trial): a search that was
killed goes on with the values that it would have had.

Akiba, Sano, Yanase, Ohta, Koyama, "Optuna", KDD 2019; TPE: Bergstra et al., NeurIPS 2011;
NSGA-II: Deb et al., 2002.
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

# Trials of one generation of NSGA-II. Optuna's 50 is for thousands of trials; here a
# search has tens.
GENERATION = 10


@dataclass(frozen=True)
class SampledTrial:
    """A trial as a sampler sees it.

    state: "complete", "pruned", "failed", or "running" of one of the same batch. scores:
    one per objective, of a complete trial. pruned: (round, best accuracy) at which it was
    given up. memory: what the sampler keeps with a trial.
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
            f"--sampler {sampler} needs Optuna: pip install 'fedlearn[tune]'; "
            "--grid works without it"
        ) from None


def propose(
    sampler: str,
    space: Space,
    objectives: Objectives,
    trials: Sequence[SampledTrial],
    seed: int,
    number: int,
) -> tuple[Values, dict[str, Any]]:
    """Return the values of trial ``number``, and what the sampler keeps with it.

    trials: those before it, in order.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {axis.key: _distribution(axis) for axis in space}
    study = optuna.create_study(
        directions=objectives.directions,
        # Optuna's samplers take seeds of 32 bits.
        sampler=_sampler(sampler, derive(seed, "tune", number) % 2**32),
    )
    study.add_trials(
        [_frozen(trial, space, distributions, objectives) for trial in trials]
    )
    parameters = study.ask(distributions).params
    values = {axis.key: _value(axis, parameters[axis.key]) for axis in space}
    attributes = study.get_trials(deepcopy=False)[-1].system_attrs
    # Through JSON: as a search that is resumed reads it.
    return values, json.loads(json.dumps(attributes))


def _sampler(name: str, seed: int) -> BaseSampler:
    """Return Optuna's sampler of a name of `SAMPLERS`."""
    from optuna import samplers

    if name == "nsga2":
        return samplers.NSGAIISampler(population_size=GENERATION, seed=seed)
    if name == "tpe":
        return samplers.TPESampler(seed=seed)
    return samplers.RandomSampler(seed=seed)


def _distribution(axis: Range) -> BaseDistribution:
    """Return a range as Optuna has it."""
    from optuna import distributions

    if axis.kind == "choice":
        # By position: a list in a config is no value of Optuna's.
        return distributions.CategoricalDistribution(range(len(axis.choices)))
    if axis.kind == "int":
        return distributions.IntDistribution(
            low=int(axis.low), high=int(axis.top), step=int(axis.step)
        )
    return distributions.FloatDistribution(
        low=axis.low,
        high=axis.top,
        log=axis.kind == "log",
        # Optuna's word for any number is None.
        step=axis.step or None,
    )


def _value(axis: Range, parameter: Any) -> Value:
    """Return the value of a key for Optuna's parameter."""
    if axis.choices:
        position: int = parameter
        return axis.choices[position]
    return axis.rounded(parameter)


def _parameter(axis: Range, trial: SampledTrial) -> Any:
    """Return Optuna's parameter for a trial's value of a key."""
    value = trial.values[axis.key]
    if axis.choices:
        return axis.choices.index(value)
    return value


def _frozen(
    trial: SampledTrial,
    space: Space,
    distributions: dict[str, BaseDistribution],
    objectives: Objectives,
) -> FrozenTrial:
    """Return a trial as Optuna's studies have it."""
    from optuna.trial import TrialState, create_trial

    states = {
        "complete": TrialState.COMPLETE,
        "running": TrialState.RUNNING,
        "pruned": TrialState.PRUNED,
        "failed": TrialState.FAIL,
    }
    if len(objectives.names) == 1:
        # As if given up before its first round: TPE ignores failures, and would look
        # there again. Optuna knows pruned trials of one objective only.
        states["failed"] = TrialState.PRUNED
    intermediate: dict[int, float] = {}
    if trial.pruned:
        number, accuracy = trial.pruned
        # Where less is better, as of rounds, a low accuracy has to count as high.
        maximised = objectives.directions[0] == "maximize"
        intermediate[number] = accuracy if maximised else -accuracy
    return create_trial(
        state=states[trial.state],
        values=list(trial.scores) if trial.scores else None,
        params={axis.key: _parameter(axis, trial) for axis in space},
        distributions=distributions,
        intermediate_values=intermediate,
        system_attrs=trial.memory,
    )
