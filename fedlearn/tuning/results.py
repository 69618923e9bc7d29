"""What a search came to: a table, all trials as CSV, and the config with the best values."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from fedlearn.config import Experiment, to_toml
from fedlearn.records.writing import RunFolder
from fedlearn.reporting.table import plain
from fedlearn.reporting.units import bytes_text, percent_text, time_text
from fedlearn.tuning.objectives import VALUE_TEXTS, TrialFigures, front
from fedlearn.tuning.record import SearchSettings, Trial
from fedlearn.tuning.space import value_text, with_values

CSV = "trials.csv"
BEST = "best.toml"

# Trials in the table that is printed: what fits a screen beside the front.
TABLE_TRIALS = 10

# Columns of the CSV, which are fields of `TrialFigures`.
_CSV_FIGURES = (
    "rounds",
    "accuracy",
    "bytes",
    "time",
    "rounds_to_target",
    "bytes_to_target",
    "time_to_target",
)


def ranked(trials: Sequence[Trial], settings: SearchSettings) -> list[Trial]:
    """Return the complete trials, best first in the first objective.

    Of trials with the same values only the one that ran.
    """
    criteria = settings.criteria
    # So that less is better.
    sign = -1 if criteria.directions[0] == "maximize" else 1
    costs: list[tuple[float, int, Trial]] = []
    for trial in trials:
        if trial.state == "complete" and trial.has_own_run and trial.figures:
            score = criteria.scores(trial.figures)[0]
            costs.append((sign * score, trial.number, trial))
    # Of equal scores the earlier trial is the better one.
    costs.sort(key=lambda cost: cost[:2])
    return [trial for _, _, trial in costs]


def best_front(trials: Sequence[Trial], settings: SearchSettings) -> list[Trial]:
    """Return the complete trials that no other beats in all objectives.

    With one objective, that is the best.
    """
    criteria = settings.criteria
    complete = {trial.number: trial for trial in ranked(trials, settings)}
    scores = {
        number: criteria.scores(trial.figures)
        for number, trial in complete.items()
        if trial.figures
    }
    return [complete[number] for number in front(scores, criteria.directions)]


def table(trials: Sequence[Trial], settings: SearchSettings) -> str:
    """Return what is printed at the end: the best trials, and how all ended.

    With several objectives, the front before them.
    """
    lines = []
    if len(settings.objectives) > 1:
        names = " and ".join(settings.objectives)
        lines.append(f"not beaten in {names} at once:")
        lines.append(_rows(best_front(trials, settings), settings))
    # More of them are in the CSV.
    best = ranked(trials, settings)[:TABLE_TRIALS]
    lines.append(f"best in {settings.objectives[0]}:")
    lines.append(_rows(best, settings))
    lines.append(counts(trials))
    return "\n".join(lines)


def _rows(trials: Sequence[Trial], settings: SearchSettings) -> str:
    """Return trials as a table: their values, and every objective that has a meaning."""
    criteria = settings.criteria
    heading = ["trial", *settings.search]
    names = []
    for name in VALUE_TEXTS:
        if name == "accuracy":
            heading.append(name)
        elif name != "rounds" or settings.target:
            heading.append(name + criteria.until)
        else:
            # Without a target all trials have the same rounds.
            continue
        names.append(name)
    rows = []
    for trial in trials:
        row = [str(trial.number), *_values(trial)]
        if trial.figures:
            row += [criteria.text(name, trial.figures) for name in names]
        rows.append(row)
    return plain([heading, *rows])


def _values(trial: Trial) -> list[str]:
    return [value_text(value) for value in trial.values.values()]


def counts(trials: Sequence[Trial]) -> str:
    """Return how the trials ended, in a sentence."""
    parts = []
    for state in ("complete", "pruned", "failed"):
        number = sum(trial.state == state for trial in trials)
        if number:
            parts.append(f"{number} {state}")
    text = f"{len(trials)} trials: {', '.join(parts)}"
    # Samplers with few values to choose from ask for the same ones again.
    repeated = sum(not trial.has_own_run for trial in trials)
    if repeated:
        text += f"; {repeated} had an earlier one's values, and its result"
    return text


def line(trial: Trial, total: int) -> str:
    """Return what is printed of a trial, of so many, when it ends."""
    values = (f"{key} = {value_text(value)}" for key, value in trial.values.items())
    parts = [", ".join(values)]
    if not trial.has_own_run:
        parts.append(f"as {trial.run}")
    if trial.figures:
        parts.append(_figures_text(trial.figures))
    if trial.state != "complete":
        # Given up or failed: the reason is what a person wants to see.
        parts.append(f"{trial.state}: {trial.reason}")
    return f"trial {trial.number} of {total}: {'; '.join(filter(None, parts))}"


def _figures_text(figures: TrialFigures) -> str:
    """Return a trial's figures in words."""
    parts = [
        percent_text(figures.accuracy),
        bytes_text(figures.bytes),
        time_text(figures.time),
    ]
    if figures.rounds_to_target is not None:
        parts.append(f"{figures.rounds_to_target:.1f} rounds to the target")
    return ", ".join(parts)


def csv_text(trials: Sequence[Trial], settings: SearchSettings) -> str:
    """Return the trials as CSV with full precision.

    Shares of 1, bytes and seconds as numbers; empty where a figure is not known.
    """
    # Marked in a column: the file has the trials in their own order.
    front_numbers = {trial.number for trial in best_front(trials, settings)}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    ending = ("front", "model_sha256", "run", "reason")
    writer.writerow(["trial", *settings.search, "state", *_CSV_FIGURES, *ending])
    for trial in trials:
        figures: dict[str, Any] = {}
        if trial.figures:
            figures = trial.figures.as_json()
        on_front = "yes" if trial.number in front_numbers else ""
        writer.writerow(
            [
                trial.number,
                *trial.values.values(),
                trial.state,
                *(figures.get(name) for name in _CSV_FIGURES),
                on_front,
                trial.model_sha256,
                trial.run,
                trial.reason,
            ]
        )
    return text.getvalue()


def write(
    folder: RunFolder,
    trials: Sequence[Trial],
    settings: SearchSettings,
    base: Experiment,
) -> None:
    """Write trials.csv and, where a trial has completed, best.toml.

    That is the config with the values of the first trial of the front. Raises RecordError.
    """
    folder.write(CSV, csv_text(trials, settings))
    best = best_front(trials, settings)
    # Only complete trials are in the front, and these have figures.
    if not best or not best[0].figures:
        return
    head = _head(best[0], best[0].figures, len(trials), settings)
    rounds = base.experiment.rounds
    # best.toml has the config's own rounds, and is to be run with them.
    if settings.rounds not in (None, rounds):
        head.append(
            f"# Trials had {settings.rounds} rounds, the config has {rounds}: "
            "what is good for few may not be the best for many."
        )
    config = to_toml(with_values(base, best[0].values))
    folder.write(BEST, "\n".join([*head, "", config]))


def _head(
    best: Trial, figures: TrialFigures, trials: int, settings: SearchSettings
) -> list[str]:
    """Return the comments that best.toml begins with."""
    criteria = settings.criteria
    values = ", ".join(
        f"{name} {criteria.text(name, figures)}" for name in settings.objectives
    )
    searched = ", ".join(f"{key} = {text}" for key, text in settings.search.items())
    return [
        f"# Trial {best.number} of {trials}: {values}{criteria.until} "
        f"in {figures.rounds} rounds.",
        f"# Searched: {searched}.",
    ]
