"""A trained model with all that is known of it: from a run folder, a package, or a file of weights.

What `compress`, `export` and `package` begin with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from fedlearn.arrays import Layout, State, model_sha256
from fedlearn.config import Experiment, read, read_recorded, to_toml
from fedlearn.data.samples import Population
from fedlearn.errors import UserError
from fedlearn.models import write_state
from fedlearn.package.content import is_package
from fedlearn.records.names import CONFIG_FILE, MODEL_FILE
from fedlearn.runs.parts import build_parts


@dataclass(frozen=True)
class Trained:
    """A model with trained weights, and the data that it was trained on.

    module: in evaluation mode, on the CPU, with the state written into it. source: as the
    user named it. folder: of the run; None: weights with a config.
    """

    source: str
    folder: Path | None
    experiment: Experiment
    module: torch.nn.Module
    layout: Layout
    state: State
    population: Population

    @property
    def name(self) -> str:
        """Return the experiment's name."""
        return self.experiment.experiment.name

    @property
    def model_sha256(self) -> str:
        """Return the hash of the state, 64 hex digits, as a run's summary has it."""
        return model_sha256(self.layout, self.state)

    @property
    def config_sha256(self) -> str:
        """Return the SHA-256 of the config with every key, 64 hex digits."""
        return hashlib.sha256(to_toml(self.experiment).encode()).hexdigest()


def load(
    source: str, config: str | None = None, changes: Sequence[str] = ()
) -> Trained:
    """Return the model of a run folder, or of a package or file of weights with a config.

    config: of weights that are no run's: a file or a shipped name. changes: as ``--set``
    has them. Raises UserError for a run that is not finished, and for weights that do not
    fit their model.
    """
    folder = Path(source).expanduser()
    if config is None:
        experiment = _recorded(source, folder, changes)
    else:
        experiment = read(config, changes)
    weights = str(folder)
    run_folder = folder if (folder / CONFIG_FILE).exists() else None
    # A pruned run's model is as wide as the tensors that the run ended with.
    shapes = experiment.model.shapes
    section = experiment.model.model_copy(update={"weights": weights, "shapes": shapes})
    parts = build_parts(experiment.model_copy(update={"model": section}))
    write_state(parts.module, parts.layout, parts.start)
    return Trained(
        source=source,
        folder=run_folder,
        experiment=experiment,
        module=parts.module.eval(),
        layout=parts.layout,
        state=parts.start,
        population=parts.population,
    )


def _recorded(source: str, folder: Path, changes: Sequence[str]) -> Experiment:
    """Return the config of a run folder. Raises UserError for what is none."""
    config_path = folder / CONFIG_FILE
    if is_package(folder):
        raise UserError(
            f"'{source}' is a package, which has no config; name the one of its run: "
            "--config CONFIG"
        )
    if not config_path.exists():
        raise UserError(
            f"'{source}' is no run folder: it has no {CONFIG_FILE}. Give a run folder, or "
            "a file of weights with --config CONFIG"
        )
    if not (folder / MODEL_FILE).exists():
        raise UserError(
            f"'{source}' has no {MODEL_FILE}: the run is not finished; resume it first: "
            f"fedlearn simulate --resume --out {source}"
        )
    return read_recorded(config_path, changes)
