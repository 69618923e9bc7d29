"""The parts of a run, built from its config: data, model, strategy, ClientApp, devices.

Whatever is wrong with them is an error that names the table of the config, before anything
is written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from flwr.serverapp.strategy import Strategy

from fedlearn import data, models
from fedlearn.arrays import Layout, State
from fedlearn.clients.augment import KINDS
from fedlearn.clients.methods import METHODS
from fedlearn.clients.normal import single_sample_fault
from fedlearn.clients.optimizers.named import build as build_optimizer
from fedlearn.config import Experiment
from fedlearn.data.fingerprint import fingerprints
from fedlearn.data.samples import Population
from fedlearn.devices.profiles import Devices
from fedlearn.engine import apps
from fedlearn.errors import ClientError, ConfigError, ModelError, reason_of
from fedlearn.models.resize import MisfitError
from fedlearn.names import nearest
from fedlearn.runs import devices
from fedlearn.runs.baseline import baseline
from fedlearn.runs.weights import Weights, read_weights
from fedlearn.strategies.build import build
from fedlearn.strategies.plans import plan


@dataclass(frozen=True)
class Parts:
    """What a config names, as objects.

    initial: the state that every client can make itself, from the seed. start: that of
    round 0, which is another one where the config gives weights. model_options: what the
    model is built with. app: answers in the place of our own training. devices: those of
    simulated clients, where the config has any.
    """

    population: Population
    module: torch.nn.Module
    layout: Layout
    initial: State
    start: State
    model_options: Mapping[str, Any]
    strategy: Strategy
    app: apps.UserApp | None
    devices: Devices | None

    @property
    def clients(self) -> int:
        """Return how many clients there are."""
        return len(self.population.clients)

    @property
    def starts_elsewhere(self) -> bool:
        """Return whether round 0's model is one that clients cannot make themselves."""
        return self.start is not self.initial

    @cached_property
    def fingerprints(self) -> Mapping[str, str | None]:
        """Return the fingerprints of the data, by their names in the manifest."""
        return fingerprints(self.population)

    @cached_property
    def baseline(self) -> Mapping[str, Any]:
        """Return what a constant answer reaches on the held-out samples."""
        return baseline(self.population.test)


def build_parts(experiment: Experiment, agents: bool = False) -> Parts:
    """Return the parts of an experiment. agents: real ones train, on devices of their own.

    Raises UserError for what cannot be built, or does not fit together.
    """
    # Data first: the model is built for its shapes, and the strategy for its clients.
    population = _population(experiment)
    weights = _weights(experiment)
    options = _model_options(experiment, weights)
    module, layout = _model(experiment, population, options)
    clients = len(population.clients)
    strategy = _strategy(experiment, layout, clients)
    # Real agents have devices of their own, so none are simulated for them.
    simulated = None
    if not agents:
        with config_section("devices"):
            simulated = devices.checked(experiment, clients)
    app = _app(experiment, clients, agents)
    if app is None or experiment.client.mods:
        _check_optimizer(experiment, module)
    initial = _initial(experiment, module, layout)
    start = initial
    if weights is not None:
        with config_section("model"):
            start = weights.fitted(layout, initial)
    if app is None or experiment.client.mods:
        _check_batches(experiment, module, population)
    # Last: it loads a GPU's libraries, and every cheaper mistake is told before.
    _check_device(experiment.engine.device)
    return Parts(
        population, module, layout, initial, start, options, strategy, app, simulated
    )


def partition_options(experiment: Experiment) -> dict[str, Any]:
    """Return the keys of ``[data.partition]``; "kind" is among them only where it is set."""
    section = experiment.data.partition
    options = section.options
    if section.kind:
        options["kind"] = section.kind
    return options


@contextlib.contextmanager
def config_section(name: str) -> Iterator[None]:
    """Say in which table of the config an error lies."""
    try:
        yield
    except ConfigError as error:
        # Some errors name their table themselves, and saying it twice helps nobody.
        if str(error).startswith(f"[{name}"):
            raise
        raise type(error)(f"[{name}] {error}") from error


def _population(experiment: Experiment) -> Population:
    section = experiment.data
    partition = partition_options(experiment)
    with config_section("data"):
        population = data.population(
            section.name, section.options, partition, experiment.experiment.seed
        )
    with config_section("train"):
        _check_augment(experiment.train.augment, population)
    return population


def _check_augment(kind: str, population: Population) -> None:
    known = KINDS.get(population.modality, ())
    if kind and kind not in known:
        raise ConfigError(
            f"augment = '{kind}' does not fit {population.modality} data."
            f"{nearest(kind, known)} "
            f"Known for {population.modality}: {', '.join(known) or 'none'}"
        )


def _weights(experiment: Experiment) -> Weights | None:
    source = experiment.model.weights
    if not source:
        return None
    with config_section("model"):
        return read_weights(source)


def _model_options(
    experiment: Experiment, weights: Weights | None
) -> Mapping[str, Any]:
    """Return what the model is built with, at the coordinator and at every client."""
    section = experiment.model
    options = section.options
    # Only where it is asked for: other clients may be of an older version.
    if section.binary:
        options = options | {models.BINARY: True}
    if weights is None or section.shapes != "weights":
        return options
    return options | {models.SHAPES: weights.shapes}


def _model(
    experiment: Experiment, population: Population, options: Mapping[str, Any]
) -> tuple[torch.nn.Module, Layout]:
    section = experiment.model
    with config_section("model"):
        try:
            module = models.build(
                section.name,
                options,
                input_shape=population.input_shape,
                classes=population.classes,
                seed=experiment.experiment.seed,
                modality=population.modality,
            )
        except MisfitError as error:
            raise ModelError(
                f"weights = '{section.weights}': {error}; give the model and the data that "
                "they were trained with"
            ) from error
        return module, models.layout(module)


def _initial(experiment: Experiment, module: torch.nn.Module, layout: Layout) -> State:
    initial = models.read_state(module, layout)
    # Before any round: a run from NaN would fail only at its first score.
    if not np.isfinite(initial.floats).all():
        raise ModelError(
            f"model '{experiment.model.name}' starts with NaN or infinite values; "
            "mend how its weights are drawn"
        )
    return initial


def _check_batches(
    experiment: Experiment, module: torch.nn.Module, population: Population
) -> None:
    """Refuse mini-batches of one sample where the model cannot train on them."""
    if experiment.train.batch_size != 1:
        return
    dtype = torch.int64 if population.modality == "text" else torch.float32
    fault = single_sample_fault(
        module, torch.zeros(1, *population.input_shape, dtype=dtype)
    )
    if fault:
        raise ConfigError(f"[train] batch_size = 1: {fault}")


def _check_optimizer(experiment: Experiment, module: torch.nn.Module) -> None:
    """Refuse an optimiser that cannot be built, before a client fails for it."""
    if experiment.train.optimizer == "sgd":
        return
    weights = [w for w in module.parameters() if w.requires_grad]
    try:
        build_optimizer(plan(experiment, 1, {}), weights)
    except ClientError as error:
        raise ConfigError(f"[train] {error}") from error


def _strategy(experiment: Experiment, layout: Layout, clients: int) -> Strategy:
    settings = experiment.experiment
    if settings.min_clients > clients:
        raise ConfigError(
            f"experiment.min_clients = {settings.min_clients}, "
            f"but there are {clients} clients"
        )
    # Flower asks for a share, where our config gives a number that stays readable.
    fraction_evaluate = 0.0
    if experiment.evaluate.clients:
        # Flower knows shares of clients, and the config a number.
        fraction_evaluate = min(1.0, experiment.evaluate.max_clients / clients)
    # A strategy takes by name what it has arguments for, and no more.
    offered = {
        "layout": layout,
        "seed": settings.seed,
        "clients": clients,
        "min_clients": settings.min_clients,
        "fraction_evaluate": fraction_evaluate,
    }
    with config_section("strategy"):
        strategy = build(experiment.strategy.name, experiment.strategy.options, offered)
        # Only ours have the field; Flower's strategies write such numbers into messages.
        _check_methods(getattr(strategy, "methods", {}))
    return strategy


def _check_methods(numbers: object) -> None:
    """Refuse numbers of client methods that no client would know."""
    if not isinstance(numbers, Mapping):
        raise ConfigError(
            f"methods = {numbers!r}: write a table, such as methods = {{ NAME = 0.1 }}"
        )
    for name, number in numbers.items():
        if name not in METHODS:
            raise ConfigError(
                f"methods: there is no client method '{name}'."
                f"{nearest(name, METHODS)} Known: {', '.join(METHODS)}"
            )
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise ConfigError(f"methods: {name} = {number!r} is not a number")


def _app(experiment: Experiment, clients: int, agents: bool) -> apps.UserApp | None:
    with config_section("client"):
        section = experiment.client
        config = apps.AppConfig(section.run_config, section.node_config)
        app = apps.load(section.app, section.mods, config)
        _check_lists(section.node_config, clients)
        if app is not None and agents:
            raise ConfigError(
                "Flower ClientApps and mods run in a simulation, "
                "or on Flower's own engine; agents train by [train] alone"
            )
    return app


def _check_lists(node_config: Mapping[str, Any], clients: int) -> None:
    """Raise ConfigError for a list that has not one value for each client."""
    for key, value in node_config.items():
        if isinstance(value, list) and len(value) != clients:
            raise ConfigError(
                f"[client.node_config] '{key}' lists {len(value)} values for {clients} "
                "clients; a list has one for each, and a single value is everybody's"
            )


def _check_device(device: str) -> None:
    try:
        # The device "meta" has no values to give back, so one is asked for.
        float(torch.zeros(1, device=device))
    # torch has as many kinds of error as it has devices.
    except Exception as error:
        raise ConfigError(
            f"[engine] device = '{device}' cannot be used here: "
            f'{reason_of(error)}; use "cpu"'
        ) from None
