"""What stands against ``[engine] collapse``: faults of a config, and faults of a model.

A fault is text: what asks for clients one by one, and how to change it; "" means none.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray

from fedlearn.arrays import State
from fedlearn.clients.batches import Tensors, tensors
from fedlearn.clients.normal import normalises
from fedlearn.clients.train import Update, train
from fedlearn.codec import codec, feedback
from fedlearn.config import Experiment
from fedlearn.engine import together
from fedlearn.engine.runner import Runner
from fedlearn.models import read_state
from fedlearn.plan import Plan
from fedlearn.seeds import isolated
from fedlearn.strategies.fedavg import FedAvg
from fedlearn.strategies.minibatch_sgd import MinibatchSGD
from fedlearn.strategies.plans import plan as plan_of

# Held-out samples of the trial: two clients of three and of five.
_TRIAL_SAMPLES = 8
_FIRST_CLIENT_SAMPLES = 3

# The largest error of a sum, relative to its largest value, that the order of summation
# causes. More means that samples influence each other.
_MAX_ORDER_ERROR = 1e-3

_OTHER_MODEL = "take another model"


def first_plan(experiment: Experiment, strategy: Strategy) -> Plan:
    """Return the plan of the first round."""
    request = {}
    if isinstance(strategy, FedAvg | MinibatchSGD):
        request = strategy.asks()
    return plan_of(experiment, 1, request)


def config_fault(
    experiment: Experiment, strategy: Strategy, app: bool, agents: bool
) -> str:
    """Return what of the config needs clients one by one.

    app: there is a Flower ClientApp or a mod. agents: real ones do the work.
    """
    if agents:
        return "agents work each for itself: take a simulation"
    if app:
        return (
            "a Flower ClientApp or a mod sees each client by itself: leave out [client]"
        )
    return (
        _strategy_fault(experiment, strategy)
        or _codec_fault(experiment)
        or _deadline_fault(experiment)
        or _plan_fault(first_plan(experiment, strategy), strategy)
    )


def model_fault(runner: Runner, plan: Plan) -> str:
    """Return what of the model needs clients one by one.

    Two clients are made of held-out samples, and their sum is compared with what `train`
    makes of each.
    """
    for entry in runner.layout.entries:
        if entry.trained and entry.dtype not in ("float32", "float64"):
            # Each client rounds its own step, and a sum would be rounded once.
            return (
                f"'{entry.name}' rounds each client's step to {entry.dtype}: "
                f"{_OTHER_MODEL}"
            )
    if normalises(runner.module):
        return (
            "BatchNorm normalises over each client's batch: "
            'set norm = "group" where [model] has that, or take another model'
        )
    try:
        return _trial_fault(runner, plan)
    except Exception:
        # A model that fails here fails in the rounds, where the client is recorded.
        return ""


def _strategy_fault(experiment: Experiment, strategy: Strategy) -> str:
    # A subclass may do anything with an update.
    if type(strategy) not in (FedAvg, MinibatchSGD):
        return (
            f'strategy "{experiment.strategy.name}" may look at each update: '
            'take "fedavg" or "minibatch-sgd"'
        )
    groups = getattr(strategy, "groups", 1)
    if groups > 1:
        return f"strategy.groups = {groups} compares updates: set groups = 1"
    return ""


def _codec_fault(experiment: Experiment) -> str:
    section = experiment.codec
    if feedback(section.up) != (False, "raw32"):
        return f'codec.up = "{section.up}" encodes each update: set codec.up = "raw32"'
    # With a codec for differences, "auto" keeps a copy of each client's model.
    copies = codec(section.down).for_differences and section.downlink == "auto"
    if section.downlink == "shadow":
        copies = True
    if copies:
        return (
            f'codec.down = "{section.down}" leaves each client a model of its own: '
            'set codec.downlink = "cast"'
        )
    return ""


def _deadline_fault(experiment: Experiment) -> str:
    if experiment.devices.deadline_s and experiment.devices.simulated:
        return "devices.deadline_s leaves out single clients: set it to 0"
    return ""


def _plan_fault(plan: Plan, strategy: Strategy) -> str:
    steps = plan.steps
    if not steps and plan.batch_size == 0:
        # An epoch of one full batch is one step.
        steps = plan.epochs
    if plan.answer == "update" and steps != 1:
        return (
            "clients take more than one step: set train.steps = 1, "
            "or train.epochs = 1 and train.batch_size = 0"
        )
    if plan.stragglers:
        return (
            f"train.stragglers = {plan.stragglers:g} has clients do less than others: "
            "set it to 0"
        )
    if getattr(strategy, "methods", None):
        return "strategy.methods bend each client's steps: leave them out"
    if plan.optimizer != "sgd":
        return (
            f'train.optimizer = "{plan.optimizer}" scales each client\'s step by its own '
            'gradient: set it to "sgd"'
        )
    if plan.clip_norm:
        return (
            f"clip_norm = {plan.clip_norm:g} clips each client's gradient: set it to 0"
        )
    if plan.precision != "float32":
        return (
            f'train.precision = "{plan.precision}" rounds each client\'s gradient: '
            'set it to "float32"'
        )
    return ""


def _trial_fault(runner: Runner, plan: Plan) -> str:
    start = read_state(runner.module, runner.layout)
    clients = _trial_clients(runner)
    if _draws(runner, clients[0]):
        return (
            "the model draws random numbers in training, as dropout does, "
            f"and each client has its own: set dropout = 0, or {_OTHER_MODEL}"
        )
    # A gradient: the difference of two models would have the rounding of their weights.
    trial = replace(plan, answer="gradient", codec="raw32")
    shares = [
        together.share(trial, number, data, True) for number, data in enumerate(clients)
    ]
    sums, _ = together.summed(runner.module, runner.layout, trial, start, shares)
    updates = _trial_updates(runner, trial, start, clients)
    if _differs(sums, updates):
        return (
            "what the model computes for a sample depends on the others of its batch, "
            f"or it keeps count of them: {_OTHER_MODEL}"
        )
    return ""


def _trial_clients(runner: Runner) -> list[Tensors]:
    """Return two clients of different sizes, made of held-out samples."""
    test = runner.population.test
    positions = np.arange(len(test))
    parts = [
        positions[:_FIRST_CLIENT_SAMPLES],
        positions[_FIRST_CLIENT_SAMPLES:_TRIAL_SAMPLES],
    ]
    # A very small set of samples makes one client only.
    return [
        tensors(test.take(part), runner.population.modality, runner.device)
        for part in parts
        if part.size
    ]


def _trial_updates(
    runner: Runner, plan: Plan, start: State, clients: Sequence[Tensors]
) -> list[Update]:
    """Return what each client learns by itself."""
    return [
        train(runner.module, runner.layout, plan, start, data, number)
        for number, data in enumerate(clients)
    ]


def _differs(sums: NDArray[np.float32], updates: Sequence[Update]) -> bool:
    """Tell whether a sum (P,) is more than rounding away from that of the updates."""
    # A counter of batches, which would count one for all clients.
    if any(update.difference.integers.any() for update in updates):
        return True
    expected = sum(
        np.float64(update.examples) * update.difference.floats for update in updates
    )
    error = np.abs(sums - expected).max(initial=0)
    # A sum of almost nothing is compared with 1e-6: relative errors mean little there.
    largest = max(1e-6, np.abs(expected).max(initial=0))
    return bool(error > _MAX_ORDER_ERROR * largest)


def _draws(runner: Runner, data: Tensors) -> bool:
    """Tell whether the model draws random numbers in training.

    It does if the next number of some generator is another one after a forward pass.
    """
    # In evaluation mode, dropout would draw nothing.
    runner.module.train()

    def next_numbers(work: Callable[[], object]) -> list[float]:
        with isolated(0), torch.no_grad():
            work()
            return [
                random.random(),
                float(np.random.random()),
                float(torch.rand(())),
                float(torch.rand((), device=runner.device)),
            ]

    after_pass = next_numbers(lambda: runner.module(data.x))
    after_nothing = next_numbers(lambda: None)
    return after_pass != after_nothing
