"""A whole experiment in this process and its workers: config in, run folder out."""

from __future__ import annotations

import contextlib
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol

import numpy as np
import torch
from flwr.serverapp.strategy import Strategy

import fedlearn
from fedlearn import data, models
from fedlearn.arrays import Layout, State
from fedlearn.clients.augment import KINDS
from fedlearn.codec import AUTO, codec, feedback
from fedlearn.codec.choice import Choice, Situation, choose
from fedlearn.config import Experiment, to_toml
from fedlearn.data.samples import Population
from fedlearn.devices.machine import cores, processor
from fedlearn.engine import ENGINES, apps, collapse
from fedlearn.engine.fleet import Fleet
from fedlearn.engine.runner import Runner, single_thread
from fedlearn.engine.serial import Engine
from fedlearn.errors import ConfigError, ModelError
from fedlearn.flower import enter
from fedlearn.memory.downlink import Cast, Downlink, Shadow, Snapshots
from fedlearn.memory.states import States
from fedlearn.memory.vectors import SLOTS, ClientVectors
from fedlearn.memory.versions import Versions
from fedlearn.names import call, find, nearest
from fedlearn.records.names import (
    CAST_FOLDER,
    CONFIG_FILE,
    COPIES_FILE,
    LINES_FILE,
    MANIFEST_FILE,
    RESIDUALS_FILE,
    STATES_FILE,
    SUMMARY_FILE,
    VERSIONS_FILE,
)
from fedlearn.records.writing import RunFolder
from fedlearn.reporting.progress import Progress
from fedlearn.runs.devices import ChosenGrid, Setting, checked, takes_all
from fedlearn.runs.grid import SimulationGrid
from fedlearn.runs.loop import Run
from fedlearn.strategies.build import build
from fedlearn.strategies.cohorts import averages, cohort_of
from fedlearn.strategies.plans import plan


class FleetMaker(Protocol):
    """Puts agents in the place of an engine's clients."""

    def __call__(
        self,
        runner: Runner,
        inner: Engine,
        experiment: Experiment,
        population: Population,
        downlink: Downlink,
    ) -> Engine:
        """Return the engine that asks agents; ``inner`` scores models."""


def simulate(
    experiment: Experiment,
    folder: RunFolder,
    display: Progress,
    resume: bool = False,
    fleet: FleetMaker | None = None,
    watch: Callable[[Engine, Runner], Engine] | None = None,
) -> dict[str, Any]:
    """Run an experiment, or go on with one, and return its summary. fleet: what asks real agents in place of the engine.

    watch: puts something before the engine that looks on, for a profile.

    Everything that can be wrong with the input is checked before anything is written. Raises UserError,
    RoundError, RunError and RecordError.
    """
    begun = time.perf_counter()
    single_thread()
    enter()
    population, module, layout = _parts(experiment)
    strategy = _strategy(experiment, layout, len(population.clients))
    with _section("devices"):  # real agents have devices of their own
        devices = (
            checked(experiment, len(population.clients)) if fleet is None else None
        )
    written = experiment
    experiment, why = _with_codecs(
        experiment,
        layout,
        strategy,
        len(population.clients),
        folder if resume else None,
    )
    with _section("client"):
        app = apps.load(experiment.client.app, experiment.client.mods)
        if app is not None and fleet is not None:
            raise ConfigError(
                "Flower ClientApps and mods run in a simulation, or on Flower's own engine; agents train by [train] alone"
            )
    if experiment.engine.collapse:
        collapse.check(experiment, strategy, app is not None, fleet is not None)
    initial = models.read_state(module, layout)
    if not np.isfinite(initial.floats).all():
        raise ModelError(
            f"model '{experiment.model.name}' starts with NaN or infinite values; mend how its weights are drawn"
        )
    _check_device(experiment.engine.device)
    holdout = experiment.evaluate.holdout if experiment.evaluate.clients else 0.0
    residuals = _residuals(
        experiment, folder, len(population.clients), layout, strategy
    )
    downlink, copies = _downlink(
        experiment,
        folder,
        len(population.clients),
        layout,
        initial,
        fleet is not None,
        strategy,
    )
    states = States(folder.path / STATES_FILE) if app is not None else None
    runner = Runner(
        module,
        layout,
        population,
        experiment.experiment.seed,
        holdout,
        experiment.engine.device,
        app,
        copies,
        residuals,
    )
    summing = (
        collapse.before(experiment, strategy, runner)
        if experiment.engine.collapse
        else None
    )
    setting = Setting(experiment, runner, devices, strategy) if devices else None
    experiment, auto = _with_engine(
        experiment,
        runner,
        cohort_of(strategy, len(population.clients)),
        folder if resume else None,
    )
    engine = _engine(experiment, runner)
    alone = getattr(engine, "why", "")  # of "stacked"
    try:
        if fleet is not None:
            engine = fleet(runner, engine, experiment, population, downlink)
        if summing:
            engine = summing(engine)
        if setting:
            engine = setting.engine(engine)
        if watch:
            engine = watch(engine, runner)
        chooser = setting.choose if setting and setting.chooses else None
        if isinstance(engine, Fleet) and experiment.fleet.cohort == "fastest":
            chooser = partial(
                engine.choose,
                takes_all(strategy, len(population.clients)),
                experiment.experiment.seed,
            )
        grid = (ChosenGrid if chooser else SimulationGrid)(
            engine,
            layout,
            len(population.clients),
            lambda round, asked: plan(experiment, round, asked),
            downlink,
            initial.floats,
            payloads=getattr(strategy, "takes_payloads", False),
            states=states,
            residuals=residuals,
            on_client=display.client_done,
        )
        if isinstance(grid, ChosenGrid) and chooser:
            grid.choose = chooser
        # Agents, and clients' copies and residuals, rely on what the last checkpoint holds: with them it is waited for.
        beside = fleet is None and copies is None and residuals is None
        run = Run(
            experiment,
            layout,
            initial,
            strategy,
            grid,
            engine.score,
            folder,
            display,
            setting.clock if setting else None,
            beside,
        )
        if resume:
            run.resume()
        folder.write(
            CONFIG_FILE, to_toml(written)
        )  # of a resumed run too: it may have more rounds now
        if not resume:
            folder.write(LINES_FILE, "")
        told: dict[str, Any] = {"devices": setting.told()} if setting else {}
        told |= ({"not_stacked": alone} if alone else {}) | (
            {"auto": auto} if auto else {}
        )
        folder.write_json(
            MANIFEST_FILE,
            manifest(experiment, population, layout, engine, why) | told,
        )
        display.start(
            facts(experiment, population, layout, engine, why) | {"lines": run.lines}
        )
        if alone:
            display.note(
                f'clients train one at a time, as with engine.kind = "pool": {alone}'
            )
        summary = run.go()
    finally:
        engine.close()
        for kept in (downlink, residuals, states):
            if kept:
                kept.close()
    summary["seconds_total"] = time.perf_counter() - begun
    folder.write_json(SUMMARY_FILE, summary)
    return summary


def _parts(experiment: Experiment) -> tuple[Population, torch.nn.Module, Layout]:
    seed = experiment.experiment.seed
    with _section("data"):
        section = experiment.data
        partition = section.partition.options | (
            {"kind": section.partition.kind} if section.partition.kind else {}
        )
        population = data.population(section.name, section.options, partition, seed)
    with _section("train"):
        _check_augment(experiment.train.augment, population)
    with _section("model"):
        module = models.build(
            experiment.model.name,
            experiment.model.options,
            input_shape=population.input_shape,
            classes=population.classes,
            seed=seed,
            task=population.task,
        )
        return population, module, models.layout(module)


def _strategy(experiment: Experiment, layout: Layout, clients: int) -> Strategy:
    evaluate, settings = experiment.evaluate, experiment.experiment
    if settings.min_clients > clients:
        raise ConfigError(
            f"experiment.min_clients = {settings.min_clients}, but there are {clients} clients"
        )
    offered = {
        "layout": layout,
        "seed": settings.seed,
        "clients": clients,
        "min_clients": settings.min_clients,
        "fraction_evaluate": min(1.0, evaluate.max_clients / clients)
        if evaluate.clients
        else 0.0,
    }
    with _section("strategy"):
        return build(experiment.strategy.name, experiment.strategy.options, offered)


def _with_codecs(
    experiment: Experiment,
    layout: Layout,
    strategy: Strategy,
    clients: int,
    begun: RunFolder | None,
) -> tuple[Experiment, str]:
    """Return the experiment with the codecs that "auto" stands for, and the reason for them.

    begun: of a run that is resumed; it keeps the codecs that it began with, whatever changed meanwhile.
    """
    section = experiment.codec
    if AUTO not in (section.up, section.down):
        return experiment, ""
    made = _chosen_before(begun) if begun else None
    if made is None:
        made = choose(
            Situation(
                parameters=layout.floats,
                clients=clients,
                cohort=cohort_of(strategy, clients),
                rounds=experiment.experiment.rounds,
                averages=averages(strategy),
                link_mbps=section.link_mbps,
                whole_models=section.downlink == "snapshot",
            )
        )
    up, down = (
        (made.up if section.up == AUTO else section.up),
        (made.down if section.down == AUTO else section.down),
    )
    return experiment.model_copy(
        update={"codec": section.model_copy(update={"up": up, "down": down})}
    ), made.why


def _chosen_before(folder: RunFolder) -> Choice | None:
    """Return what a run's manifest says of its codecs; None: it was killed before it had one."""
    try:
        told = _manifest(folder)["codec"]
        return Choice(str(told["up"]), str(told["down"]), str(told["why"]))
    except (KeyError, TypeError):
        return None


def _downlink(
    experiment: Experiment,
    folder: RunFolder,
    clients: int,
    layout: Layout,
    initial: State,
    agents: bool,
    strategy: Strategy,
) -> tuple[Downlink, ClientVectors | None]:
    """Return the way that models reach clients, and the clients' copies where there are any."""
    section, seed = experiment.codec, experiment.experiment.seed
    kind, room = section.downlink, _room(clients, layout)
    if kind == "auto":
        coarse = codec(section.down).for_differences
        kind = (
            "snapshot"
            if not coarse
            else "shadow"
            if room <= section.copies_gb
            else "cast"
        )
    elif kind == "snapshot" and codec(section.down).for_differences:
        raise ConfigError(
            f'[codec] down = "{section.down}" is for differences, but downlink = "snapshot" sends whole models; leave downlink out, '
            "or use raw32, f16, bf16 or q8"
        )
    if kind == "snapshot":
        return Snapshots(layout, section.down, seed), None
    if kind == "cast":
        log = folder.path / CAST_FOLDER if agents else None
        return Cast(
            layout,
            section.down,
            seed,
            initial.floats,
            Versions(folder.path / VERSIONS_FILE),
            log,
        ), None
    room = _room(_reached(experiment, clients, strategy), layout)
    _check_room(
        "copies of the model",
        room,
        section.copies_gb,
        'or send everybody the same differences: downlink = "cast"',
    )
    copies = ClientVectors(folder.path / COPIES_FILE, clients, layout.floats)
    return Shadow(layout, section.down, seed, copies), copies


def _residuals(
    experiment: Experiment,
    folder: RunFolder,
    clients: int,
    layout: Layout,
    strategy: Strategy,
) -> ClientVectors | None:
    section = experiment.codec
    if not feedback(section.up)[0]:
        return None
    _check_room(
        "residuals",
        _room(_reached(experiment, clients, strategy), layout),
        section.copies_gb,
        "or leave out ef+",
    )
    return ClientVectors(folder.path / RESIDUALS_FILE, clients, layout.floats)


def _reached(experiment: Experiment, clients: int, strategy: Strategy) -> int:
    """Return how many clients a run can ask at most, repeated rounds apart: only these have vectors."""
    evaluated = experiment.evaluate.max_clients if experiment.evaluate.clients else 0
    return min(
        clients,
        experiment.experiment.rounds * (cohort_of(strategy, clients) + evaluated),
    )


def _room(clients: int, layout: Layout) -> float:
    """Return the gigabytes on disk that a vector per client can take."""
    return 4 * SLOTS * clients * layout.floats / 1e9


def _check_room(what: str, room: float, limit: float, instead: str) -> None:
    if room > limit:
        raise ConfigError(
            f"[codec] {what} of all clients asked take up to {room:.3g} GB on disk, over copies_gb = {limit:g}; raise it, {instead}"
        )


def _engine(experiment: Experiment, runner: Runner) -> Engine:
    section = experiment.engine
    offered = {
        "runner": runner,
        "workers": section.workers,
        "chunk": section.chunk,
        "plan": plan(experiment, 1, {}),
        "experiment": experiment,
    }
    made: Engine = call("engine", find("engine", section.kind, ENGINES), {}, offered)
    return made


def _with_engine(
    experiment: Experiment, runner: Runner, cohort: int, begun: RunFolder | None
) -> tuple[Experiment, dict[str, Any]]:
    """Return the experiment with the engine that "auto" stands for, and what was measured; a resumed run keeps its engine."""
    section = experiment.engine
    if section.collapse and section.kind in (
        "stacked",
        "auto",
    ):  # what is left to train by itself is trained as everywhere
        kind = "pool" if section.device == "cpu" else "serial"
        return experiment.model_copy(
            update={"engine": section.model_copy(update={"kind": kind, "chunk": 0})}
        ), {}
    if section.kind != "auto":
        return experiment, {}
    kept = _manifest(begun) if begun else {}
    if "auto" in kept:
        chosen = {"kind": kept["engine"]["kind"], "chunk": kept["engine"]["chunk"]}
        return experiment.model_copy(
            update={"engine": section.model_copy(update=chosen)}
        ), dict(kept["auto"])
    from fedlearn.engine.auto import choose as choose_engine

    made = choose_engine(runner, plan(experiment, 1, {}), cohort, section.workers)
    section = section.model_copy(
        update={"kind": made.kind, "chunk": made.chunk, "workers": made.workers}
    )
    return experiment.model_copy(update={"engine": section}), made.told()


def _manifest(folder: RunFolder) -> dict[str, Any]:
    """Return a run's manifest; {}: it was killed before it had one."""
    try:
        found: dict[str, Any] = json.loads((folder.path / MANIFEST_FILE).read_text())
        return found
    except (OSError, ValueError):
        return {}


def _check_device(device: str) -> None:
    try:
        float(
            torch.zeros(1, device=device)
        )  # the device "meta" has no values to give back
    except (
        Exception
    ) as error:  # torch has as many kinds of error here as it has devices
        raise ConfigError(
            f"[engine] device = '{device}' cannot be used here: {str(error).splitlines()[0]}; use \"cpu\""
        ) from None


def _check_augment(kind: str, population: Population) -> None:
    known = KINDS.get(population.task, ())
    if kind and kind not in known:
        raise ConfigError(
            f"augment = '{kind}' does not fit {population.task} data.{nearest(kind, known)} "
            f"Known for {population.task}: {', '.join(known) or 'none'}"
        )


@contextlib.contextmanager
def _section(name: str) -> Iterator[None]:
    """Say in which table of the config an error lies."""
    try:
        yield
    except ConfigError as error:
        if str(error).startswith(f"[{name}"):
            raise
        raise type(error)(f"[{name}] {error}") from error


def facts(
    experiment: Experiment,
    population: Population,
    layout: Layout,
    engine: Engine,
    why: str,
) -> dict[str, Any]:
    """Return what a display shows of a run at its start."""
    codec, kind = experiment.codec, experiment.data.partition.kind
    return {
        "name": experiment.experiment.name,
        "rounds": experiment.experiment.rounds,
        "data": f"{population.name}, {len(population.clients):,} clients{f' ({kind})' if kind else ''}",
        "model": f"{experiment.model.name}, {layout.trained:,} parameters",
        "strategy": experiment.strategy.name,
        "codec": f"{codec.up} up, {codec.down} down"
        + (f" (auto: {why})" if why else ""),
        "engine": f"{experiment.engine.kind}, {engine.workers} worker{'s' * (engine.workers > 1)}"
        + ", one batch for all" * experiment.engine.collapse,
    }


def manifest(
    experiment: Experiment,
    population: Population,
    layout: Layout,
    engine: Engine,
    why: str,
) -> dict[str, Any]:
    """Return what was run on what: versions, platform, data, model, engine."""
    clients = population.clients
    shown_clients, counts = data.label_counts(population)
    sizes = np.sort([clients.size(k) for k in range(min(len(clients), 10_000))])
    partition = getattr(clients, "partition", None)
    return {
        "name": experiment.experiment.name,
        "seed": experiment.experiment.seed,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": {
            "fedlearn": fedlearn.__version__,
            "python": platform.python_version(),
            **{name: _version(name) for name in ("torch", "numpy", "flwr")},
        },
        "platform": {
            "system": platform.platform(),
            "machine": platform.machine(),
            "processor": processor(),
            "cores": cores(),
            "torch_capability": torch.backends.cpu.get_cpu_capability(),
        },
        "engine": {
            "kind": experiment.engine.kind,
            "chunk": experiment.engine.chunk,
            "workers": engine.workers,
            "device": experiment.engine.device,
            "threads": 1,
            "collapse": experiment.engine.collapse,
        },
        "data": {
            "name": population.name,
            "clients": len(clients),
            "test_samples": len(population.test),
            "sizes": [int(sizes[0]), int(np.median(sizes)), int(sizes[-1])],
            "partition_sha256": partition.sha256() if partition is not None else None,
            "label_counts": {
                "clients": shown_clients.tolist(),
                "counts": counts.tolist(),
            },
        },
        "model": {
            "name": experiment.model.name,
            "parameters": layout.trained,
            "floats": layout.floats,
            "schema": layout.schema.hex(),
        },
        "codec": {"up": experiment.codec.up, "down": experiment.codec.down, "why": why},
        "command": sys.argv,
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
