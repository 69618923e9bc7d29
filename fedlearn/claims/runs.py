"""The runs that claims need: what each is, its folder, and whether it is there already.

A folder's name holds the digests of the run's config and of our source.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedlearn.claims.reading import Reproduction
from fedlearn.claims.source import source
from fedlearn.config import FORMER_WORDS, Experiment
from fedlearn.devices.machine import cores
from fedlearn.records.names import LOCK_FILE, SUMMARY_FILE

# Hex digits of a config's and of a source's digest in a folder's name: 40 bits, so that
# two of some thousand runs do not meet by chance.
DIGITS = 10

# Keys of a config that change nothing in what a run computes: (section, key).
_NO_PART = (
    ("experiment", "name"),
    ("experiment", "about"),
    ("engine", "workers"),
    ("engine", "address"),
)


@dataclass(frozen=True)
class PlannedRun:
    """One run of a variant with one seed; folder: where it is, or will be."""

    label: str
    experiment: Experiment
    agents: int
    folder: Path

    @property
    def finished(self) -> bool:
        """Tell whether it is there, whole."""
        return (self.folder / SUMMARY_FILE).exists()


# (reproduction, variant, seed) → the run; several may share one.
RunPlan = dict[tuple[str, str, int], PlannedRun]


def planned(
    reproductions: Iterable[tuple[Reproduction, tuple[int, ...]]],
    root: Path,
    stale: bool = False,
) -> RunPlan:
    """Return the runs that reproductions need, each with its seeds.

    Runs of the same config are one run. stale: where our source has no run of a config, a
    finished run by other source takes its place.
    """
    plan: RunPlan = {}
    by_digest: dict[str, PlannedRun] = {}
    for reproduction, seeds in reproductions:
        for name, variant in reproduction.variants.items():
            for seed in seeds:
                run_name = f"{reproduction.name}.{name}.s{seed}"
                experiment = _seeded(variant.experiment, run_name, seed)
                key = digest(experiment, variant.agents)
                # A twin in another file, or in this one, is the same run.
                if key not in by_digest:
                    label = f"{reproduction.name} {name}, seed {seed}"
                    folder = _folder(root, run_name, key, stale)
                    run = PlannedRun(label, experiment, variant.agents, folder)
                    by_digest[key] = run
                plan[reproduction.name, name, seed] = by_digest[key]
    return plan


def _seeded(experiment: Experiment, name: str, seed: int) -> Experiment:
    """Return an experiment with a run's own name and seed."""
    section = experiment.experiment.model_copy(
        update={"name": name, "seed": seed, "about": ""}
    )
    return experiment.model_copy(update={"experiment": section})


def digest(experiment: Experiment, agents: int, seed: bool = True) -> str:
    """Return the digest of what a run computes.

    Of its config without its name, what it expects, and where it is computed; without its
    seed, if ``seed`` is False.
    """
    config = experiment.model_dump()
    for section, key in _NO_PART:
        del config[section][key]
    del config["expect"]
    _write_former_words(config)
    if not seed:
        del config["experiment"]["seed"]
    return _digest({"config": config, "agents": agents})


def _write_former_words(config: dict[str, Any]) -> None:
    """Put words of earlier versions in a config, in place of today's.

    Results on record were filed under the digests of the former words.
    """
    for (section, key), words in FORMER_WORDS.items():
        # Reversed: of two former words of one meaning the first one counts.
        former = {word: earlier for earlier, word in reversed(words.items())}
        word = config[section][key]
        config[section][key] = former.get(word, word)


def definition(reproduction: Reproduction) -> str:
    """Return the digest of what a reproduction claims of which configs.

    The seeds have no part in it.
    """
    variants = {
        name: digest(variant.experiment, variant.agents, seed=False)
        for name, variant in reproduction.variants.items()
    }
    claims = [claim.model_dump() for claim in reproduction.claims]
    return _digest([variants, claims])


def _digest(content: Any) -> str:
    """Return the first `DIGITS` hex digits of the digest of a JSON value."""
    # Paths of a config are no JSON: as text.
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def _folder(root: Path, name: str, key: str, stale: bool) -> Path:
    """Return a run's folder: one that has its digest already, or a new one.

    The name before the digest does not matter: another reproduction may have made it.
    """
    ours = source()[:DIGITS]
    # Every run's folder has a lock from its first moment.
    begun = sorted(path.parent for path in root.glob(f"*.{key}.{ours}/{LOCK_FILE}"))
    if begun:
        return begun[-1]
    if stale:
        # The newest that is finished: a resume would mix two sources in one run.
        summaries = sorted(
            root.glob(f"*.{key}.*/{SUMMARY_FILE}"),
            key=lambda path: path.stat().st_mtime,
        )
        if summaries:
            return summaries[-1].parent
    return root / f"{name}.{key}.{ours}"


def cores_each(jobs: int) -> int:
    """Return the worker processes of each of so many runs side by side."""
    # More processes than cores would only take turns.
    return max(1, cores() // jobs)


def with_workers(run: PlannedRun, workers: int) -> Experiment:
    """Return a run's experiment with so many workers, which change no bit.

    A Ray cluster's own number of workers stays.
    """
    experiment = run.experiment
    if experiment.engine.kind == "ray":
        return experiment
    engine = experiment.engine.model_copy(update={"workers": workers})
    return experiment.model_copy(update={"engine": engine})
