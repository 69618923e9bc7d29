"""Fine-tuning by federated rounds: a run of the original's own config, from given weights."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from fedlearn.config import Experiment
from fedlearn.records.names import CONFIG_FILE, MODEL_FILE
from fedlearn.runs.start import run_in_folder

# What goes on with a comparison whose disk was full, in messages.
AGAIN = "the same command"


def tuned_experiment(
    experiment: Experiment, rounds: int, changes: Any = ()
) -> Experiment:
    """Return the experiment that fine-tunes: so many rounds, in which the rate falls to 0.

    The cosine ends a short run at rest: Loshchilov and Hutter, "SGDR: Stochastic Gradient
    Descent with Warm Restarts", ICLR 2017. changes: of single keys, as ``--set`` has them,
    which win. Raises ConfigError.
    """
    keys: Mapping[str, Any] = {
        "experiment.rounds": max(1, rounds),
        "experiment.stop_at": 0.0,
        "train.schedule": "cosine",
        "train.warmup_rounds": 0,
        "train.lr_min": 0.0,
    }
    # The original's expectations are about a run from the beginning.
    unjudged = experiment.model_copy(update={"expect": type(experiment.expect)()})
    return unjudged.changed(keys).changed(changes)


def fine_tune(
    experiment: Experiment,
    name: str,
    start: Path,
    folder: Path,
    quiet: bool,
    command: str,
) -> None:
    """Run an experiment from a file of weights, or go on with it.

    name: of the run. start: a safetensors file, whose shapes the model takes. command: what
    the display names to go on with. Raises what a run raises; KeyboardInterrupt leaves a
    run that the next call goes on with.
    """
    from fedlearn.runs.simulation import simulate

    if (folder / CONFIG_FILE).exists() and (folder / MODEL_FILE).exists():
        return
    section = {"weights": str(start), "shapes": "weights"}
    model = experiment.model.model_copy(update=section)
    naming = experiment.experiment.model_copy(update={"name": name})
    run = experiment.model_copy(update={"model": model, "experiment": naming})
    run_in_folder(
        partial(simulate),
        config=run,
        out=folder,
        # Of a run that was broken off before its first round, too.
        resume=folder.exists(),
        quiet=quiet,
        resume_command=command,
        check_expected=False,
        again=AGAIN,
    )
