"""`settle`: the config is read once, into what the rest of the run needs to know.

What "auto" stands for is decided here, and kept by a resumed run whatever changed meanwhile.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedlearn.brief import Brief
from fedlearn.codec import AUTO
from fedlearn.codec.choice import CodecChoice, Situation, choose
from fedlearn.config import Experiment
from fedlearn.engine import auto, collapse
from fedlearn.engine.runner import Runner
from fedlearn.plan import Plan
from fedlearn.records.names import MANIFEST_FILE
from fedlearn.records.writing import RunFolder
from fedlearn.runs import room
from fedlearn.runs.parts import Parts, partition_options
from fedlearn.strategies.cohorts import averages, cohort_of
from fedlearn.strategies.plans import plan


@dataclass(frozen=True)
class Settled:
    """An experiment in which nothing is left open.

    experiment: with what "auto" stood for. written: as its user wrote it. cohort: clients
    that train in a round. downlink: "snapshot", "shadow" or "cast". residuals: whether
    clients have error feedback. brief: what clients are told. codec_reason: why "auto"
    chose these codecs. engine_choice: what "auto" measured of the engines, for the
    manifest; {} where it was not asked.
    """

    experiment: Experiment
    written: Experiment
    agents: bool
    clients: int
    cohort: int
    holdout: float
    downlink: str
    residuals: bool
    brief: Brief
    codec_reason: str
    engine_choice: Mapping[str, Any]

    @property
    def seed(self) -> int:
        """Return the seed that every random number of the run derives from."""
        return self.experiment.experiment.seed

    def plan(self, round: int, changes: Mapping[str, Any]) -> Plan:
        """Return the plan of a round; changes: what the strategy's config says of it."""
        return plan(self.experiment, round, changes)


def settle(
    experiment: Experiment, parts: Parts, folder: RunFolder, resume: bool, agents: bool
) -> Settled:
    """Return what the run goes by. agents: real ones train. Raises ConfigError."""
    # A resumed run goes by what it began with, or its rounds would not fit together.
    manifest = manifest_of(folder) if resume else {}
    return settled_anew(experiment, parts, agents, manifest)


def settled_anew(
    experiment: Experiment,
    parts: Parts,
    agents: bool = False,
    before: Mapping[str, Any] | None = None,
) -> Settled:
    """Return what a run would go by that leaves no folder; arguments as in `settle`.

    before: the manifest of the run that is gone on with. Raises ConfigError.
    """
    manifest = before or {}
    written = experiment
    # Before layers change the strategy: one that takes all clients offered asks for all.
    cohort = cohort_of(parts.strategy, parts.clients)
    codecs = _codecs(experiment, parts, cohort, manifest)
    experiment = _with(experiment, "codec", up=codecs.up, down=codecs.down)
    if experiment.engine.collapse:
        # Cheap to see here; the model itself is tried when the layer is put in place.
        collapse.check(experiment, parts.strategy, parts.app is not None, agents)
    holdout = 0.0
    if experiment.evaluate.clients:
        holdout = experiment.evaluate.holdout
    reached = _reached(experiment, parts.clients, cohort)
    floats = parts.layout.floats
    residuals = room.residuals(experiment.codec, reached, floats)
    downlink = room.downlink(experiment.codec, parts.clients, reached, floats)
    experiment, engine_choice = _engine(experiment, parts, cohort, holdout, manifest)
    return Settled(
        experiment=experiment,
        written=written,
        agents=agents,
        clients=parts.clients,
        cohort=cohort,
        holdout=holdout,
        downlink=downlink,
        residuals=residuals,
        brief=_brief(experiment, parts, holdout),
        codec_reason=codecs.why,
        engine_choice=engine_choice,
    )


def manifest_of(folder: RunFolder) -> dict[str, Any]:
    """Return a run's manifest; {}: it was killed before it had one."""
    try:
        manifest = json.loads((folder.path / MANIFEST_FILE).read_text())
    # A torn file may hold brackets without end, which json follows too deep.
    except (OSError, ValueError, RecursionError):
        return {}
    return manifest if isinstance(manifest, dict) else {}


def _with(experiment: Experiment, section: str, **changes: Any) -> Experiment:
    """Return an experiment with some keys of a section changed."""
    changed = getattr(experiment, section).model_copy(update=changes)
    return experiment.model_copy(update={section: changed})


def _codecs(
    experiment: Experiment, parts: Parts, cohort: int, manifest: Mapping[str, Any]
) -> CodecChoice:
    """Return the codecs up and down, and why those, where "auto" chose one."""
    section = experiment.codec
    if AUTO not in (section.up, section.down):
        return CodecChoice(section.up, section.down, "")
    # The choice may be another today: with more clients, or in another version.
    choice = _codecs_before(manifest)
    if choice is None:
        situation = Situation(
            parameters=parts.layout.floats,
            clients=parts.clients,
            cohort=cohort,
            rounds=experiment.experiment.rounds,
            averages=averages(parts.strategy),
            link_mbps=section.link_mbps,
            whole_models=section.downlink == "snapshot",
        )
        choice = choose(situation)
    # Only what was "auto": one direction may be the user's own choice.
    up = choice.up if section.up == AUTO else section.up
    down = choice.down if section.down == AUTO else section.down
    return CodecChoice(up, down, choice.why)


def _codecs_before(manifest: Mapping[str, Any]) -> CodecChoice | None:
    """Return the codecs that a run began with; None: it was killed before it had any."""
    try:
        codec = manifest["codec"]
        return CodecChoice(str(codec["up"]), str(codec["down"]), str(codec["why"]))
    except (KeyError, TypeError):
        return None


def _reached(experiment: Experiment, clients: int, cohort: int) -> int:
    """Return how many clients a run asks at most: only these have vectors on disk.

    Repeated rounds are not counted: they ask the same clients or a few others.
    """
    evaluated = 0
    if experiment.evaluate.clients:
        evaluated = experiment.evaluate.max_clients
    return min(clients, experiment.experiment.rounds * (cohort + evaluated))


def _engine(
    experiment: Experiment,
    parts: Parts,
    cohort: int,
    holdout: float,
    manifest: Mapping[str, Any],
) -> tuple[Experiment, Mapping[str, Any]]:
    """Return the experiment with the engine that "auto" stands for, and what it measured."""
    section = experiment.engine
    if section.collapse and section.kind in ("stacked", "auto"):
        # Groups take the place of stacks; who is left trains as everywhere.
        kind = "pool" if section.device == "cpu" else "serial"
        return _with(experiment, "engine", kind=kind, chunk=0), {}
    if section.kind != "auto":
        return experiment, {}
    # The same engine as before, as another one may have other last bits.
    if "auto" in manifest:
        before = manifest["engine"]
        kept = _with(experiment, "engine", kind=before["kind"], chunk=before["chunk"])
        return kept, dict(manifest["auto"])
    # It trains clients for two seconds at most, and keeps nothing of them.
    probe = Runner(
        parts.module,
        parts.layout,
        parts.population,
        experiment.experiment.seed,
        holdout,
        section.device,
        app=parts.app,
    )
    choice = auto.choose(probe, plan(experiment, 1, {}), cohort, section.workers)
    chosen = _with(
        experiment,
        "engine",
        kind=choice.kind,
        chunk=choice.chunk,
        workers=choice.workers,
    )
    return chosen, choice.facts()


def _brief(experiment: Experiment, parts: Parts, holdout: float) -> Brief:
    population = parts.population
    return Brief(
        seed=experiment.experiment.seed,
        data=experiment.data.name,
        data_options=experiment.data.options,
        partition=partition_options(experiment),
        model=experiment.model.name,
        model_options=parts.model_options,
        modality=population.modality,
        classes=population.classes,
        input_shape=tuple(population.input_shape),
        holdout=holdout,
        # With it a client knows whether it builds the same model.
        schema=parts.layout.schema.hex(),
    )
