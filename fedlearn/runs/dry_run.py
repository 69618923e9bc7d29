"""What a run would be, without a round and without a file."""

from __future__ import annotations

from collections.abc import Iterator

from fedlearn.config import ConfigSource, Overrides, read, to_toml
from fedlearn.reporting.units import bytes_text, count_text
from fedlearn.runs.manifest import codec_text
from fedlearn.runs.names import check_names
from fedlearn.runs.parts import Parts, build_parts
from fedlearn.runs.settle import Settled, settled_anew


def dry_run(config: ConfigSource, changes: Overrides) -> str:
    """Return the whole config as TOML, and behind it what would run, as comments.

    Everything is checked and built that a run checks before its first round. Raises
    UserError.
    """
    experiment = read(config, changes)
    check_names(experiment)
    parts = build_parts(experiment)
    settled = settled_anew(experiment, parts)
    lines = [f"# {line}" for line in _figures(settled, parts)]
    return "\n".join([to_toml(experiment).rstrip(), "", *lines, ""])


def _figures(settled: Settled, parts: Parts) -> Iterator[str]:
    experiment = settled.experiment
    population = parts.population
    layout = parts.layout
    yield (
        f"data: {population.name}, {count_text(parts.clients)} clients, "
        f"{count_text(len(population.test))} held-out samples"
    )
    yield (
        f"model: {experiment.model.name}, {count_text(layout.trained)} trained parameters, "
        f"{bytes_text(4 * layout.floats)} as float32"
    )
    yield (
        f"rounds: {experiment.experiment.rounds} of {settled.cohort} clients each, "
        f"strategy {experiment.strategy.name}"
    )
    yield f"codec: {codec_text(settled)}"
    engine = experiment.engine
    workers = f", {engine.workers} workers" if engine.workers else ""
    yield f"engine: {engine.kind}{workers}"
    for note in population.notes:
        yield f"note: {note}"
