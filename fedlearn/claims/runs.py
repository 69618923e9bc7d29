"""The runs that claims need: what each is, the folder that its config and source give it, and whether it is there already."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fedlearn.claims.reading import Reproduction
from fedlearn.claims.source import source
from fedlearn.config import FORMER_WORDS, Experiment
from fedlearn.devices.machine import cores
from fedlearn.records.names import LOCK_FILE, SUMMARY_FILE

DIGITS = 10
"""Hex digits of a config's and of a source's digest in a folder's name."""


@dataclass(frozen=True)
class Wanted:
    """One run of a variant with one seed; folder: where it is, or will be."""

    label: str
    experiment: Experiment
    agents: int
    folder: Path

    @property
    def finished(self) -> bool:
        """Tell whether it is there, whole."""
        return (self.folder / SUMMARY_FILE).exists()


Plan = dict[tuple[str, str, int], Wanted]
"""(reproduction, variant, seed) → the run; several may share one."""


def planned(
    reproductions: Iterable[tuple[Reproduction, tuple[int, ...]]],
    root: Path,
    stale: bool = False,
) -> Plan:
    """Return the runs that reproductions need, each with its seeds. Runs of the same config are one run.

    stale: a finished run of the same config by other source is taken where ours has none.
    """
    out: Plan = {}
    here: dict[str, Wanted] = {}
    for reproduction, seeds in reproductions:
        for name, variant in reproduction.variants.items():
            for seed in seeds:
                experiment = _seeded(
                    variant.experiment, f"{reproduction.name}.{name}.s{seed}", seed
                )
                key = digest(experiment, variant.agents)
                label = f"{reproduction.name} {name}, seed {seed}"
                here.setdefault(
                    key,
                    Wanted(
                        label,
                        experiment,
                        variant.agents,
                        _folder(root, experiment, key, stale),
                    ),
                )
                out[reproduction.name, name, seed] = here[key]
    return out


def _seeded(experiment: Experiment, name: str, seed: int) -> Experiment:
    section = experiment.experiment.model_copy(
        update={"name": name, "seed": seed, "about": ""}
    )
    return experiment.model_copy(update={"experiment": section})


def digest(experiment: Experiment, agents: int, seed: bool = True) -> str:
    """Return the digest of what a run computes: its config without its name, what it expects, and where it is computed."""
    told = experiment.model_dump()
    for section, key in (
        ("experiment", "name"),
        ("experiment", "about"),
        ("engine", "workers"),
        ("engine", "address"),
    ):
        del told[section][key]
    del told["expect"]
    # The results on record were filed under the former words; their digests must still be found.
    for (section, key), words in FORMER_WORDS.items():
        for former, word in words.items():
            if told[section][key] == word:
                told[section][key] = former
                break
    if not seed:
        del told["experiment"]["seed"]
    text = json.dumps({"config": told, "agents": agents}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def definition(reproduction: Reproduction) -> str:
    """Return the digest of what a reproduction claims of which configs, whatever the seeds."""
    variants = {
        name: digest(variant.experiment, variant.agents, seed=False)
        for name, variant in reproduction.variants.items()
    }
    claims = [claim.model_dump() for claim in reproduction.claims]
    return hashlib.sha256(
        json.dumps([variants, claims], sort_keys=True).encode()
    ).hexdigest()[:DIGITS]


def _folder(root: Path, experiment: Experiment, key: str, stale: bool) -> Path:
    """Return a run's folder: one that has its key already, whatever it is called, or a new one."""
    ours = source()[:DIGITS]
    found = sorted(path.parent for path in root.glob(f"*.{key}.{ours}/{LOCK_FILE}"))
    if not found and stale:
        found = sorted(
            (p.parent for p in root.glob(f"*.{key}.*/{SUMMARY_FILE}")),
            key=lambda p: (p / SUMMARY_FILE).stat().st_mtime,
        )
    return found[-1] if found else root / f"{experiment.experiment.name}.{key}.{ours}"


def cores_each(jobs: int) -> int:
    """Return the worker processes of each of so many runs side by side."""
    return max(1, cores() // jobs)


def with_workers(run: Wanted, workers: int) -> Experiment:
    """Return a run's experiment with so many workers, which change no bit; those of a Ray cluster are its own."""
    experiment = run.experiment
    if experiment.engine.kind == "ray":
        return experiment
    return experiment.model_copy(
        update={"engine": experiment.engine.model_copy(update={"workers": workers})}
    )
