"""What a search found: the table that is printed, the recorded grid, and the config with the best values."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

from fedlearn.config import Experiment, to_toml
from fedlearn.records.writing import RunFolder
from fedlearn.reporting.table import plain
from fedlearn.reporting.units import bytes_text, percent_text, time_text
from fedlearn.tuning.objectives import KNOWN, front
from fedlearn.tuning.record import Settings, Trial
from fedlearn.tuning.space import shown, with_values

CSV, BEST = "trials.csv", "best.toml"

MOST = 10
"""Trials in the table."""


def ranked(trials: Sequence[Trial], settings: Settings) -> list[Trial]:
    """Return the complete trials, best first in the first objective; of the same values only the one that ran."""
    asked = settings.asked
    sign = -1 if asked.directions[0] == "maximize" else 1
    found = [
        (asked.scores(trial.figures), trial)
        for trial in trials
        if trial.state == "complete" and trial.own and trial.figures
    ]
    return [
        trial
        for _, trial in sorted(
            found, key=lambda pair: (sign * pair[0][0], pair[1].number)
        )
    ]


def best_front(trials: Sequence[Trial], settings: Settings) -> list[Trial]:
    """Return the complete trials that no other beats in all objectives; of one objective, the best."""
    asked = settings.asked
    complete = {trial.number: trial for trial in ranked(trials, settings)}
    scores = {
        number: asked.scores(trial.figures)
        for number, trial in complete.items()
        if trial.figures
    }
    return [complete[number] for number in front(scores, asked.directions)]


def table(trials: Sequence[Trial], settings: Settings) -> str:
    """Return what is printed at the end: the front where there are several objectives, and the best trials."""
    best = best_front(trials, settings)
    lines = []
    if len(settings.objectives) > 1:
        lines += [
            f"not beaten in {' and '.join(settings.objectives)} at once:",
            _rows(best, settings),
        ]
    lines += [
        f"best in {settings.objectives[0]}:",
        _rows(ranked(trials, settings)[:MOST], settings),
        counts(trials),
    ]
    return "\n".join(lines)


def _rows(trials: Sequence[Trial], settings: Settings) -> str:
    names = [name for name in KNOWN if name != "rounds" or settings.target]
    heading = [
        "trial",
        *settings.search,
        *(
            name if name == "accuracy" else name + settings.asked.until
            for name in names
        ),
    ]
    rows = [
        [
            str(t.number),
            *_values(t),
            *(settings.asked.text(name, t.figures) for name in names if t.figures),
        ]
        for t in trials
    ]
    return plain([heading, *rows])


def _values(trial: Trial) -> list[str]:
    return [shown(value) for value in trial.values.values()]


def counts(trials: Sequence[Trial]) -> str:
    """Return how the trials ended, in a sentence."""
    found = {
        state: sum(trial.state == state for trial in trials)
        for state in ("complete", "pruned", "failed")
    }
    repeated = sum(not trial.own for trial in trials)
    parts = [f"{number} {state}" for state, number in found.items() if number]
    return f"{len(trials)} trials: {', '.join(parts)}" + (
        f"; {repeated} had an earlier one's values, and its result" if repeated else ""
    )


def line(trial: Trial, total: int) -> str:
    """Return what is printed of a trial when it ends."""
    values = ", ".join(f"{key} = {shown(value)}" for key, value in trial.values.items())
    told = trial.figures
    figures = (
        f"{percent_text(told.accuracy)}, {bytes_text(told.bytes)}, {time_text(told.time)}"
        if told
        else ""
    )
    if told and told.rounds_to_target is not None:
        figures += f", {told.rounds_to_target:.1f} rounds to the target"
    end = {
        "complete": "",
        "failed": f"failed: {trial.reason}",
        "pruned": f"pruned: {trial.reason}",
    }[trial.state]
    again = "" if trial.own else f"as {trial.run}"
    return f"trial {trial.number} of {total}: " + "; ".join(
        filter(None, (values, again, figures, end))
    )


def csv_text(trials: Sequence[Trial], settings: Settings) -> str:
    """Return the trials as CSV with full precision: shares of 1, bytes and seconds as numbers, empty when unknown."""
    out = io.StringIO()
    names = (
        "rounds",
        "accuracy",
        "bytes",
        "time",
        "rounds_to_target",
        "bytes_to_target",
        "time_to_target",
    )
    on_front = {trial.number for trial in best_front(trials, settings)}
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        [
            "trial",
            *settings.search,
            "state",
            *names,
            "front",
            "model_sha256",
            "run",
            "reason",
        ]
    )
    for t in trials:
        told: Mapping[str, object] = t.figures.told() if t.figures else {}
        ended = ["yes" if t.number in on_front else "", t.model_sha256, t.run, t.reason]
        writer.writerow(
            [
                t.number,
                *t.values.values(),
                t.state,
                *(told.get(name) for name in names),
                *ended,
            ]
        )
    return out.getvalue()


def write(
    folder: RunFolder, trials: Sequence[Trial], settings: Settings, base: Experiment
) -> None:
    """Write trials.csv and, where a trial has completed, best.toml: the config with the values of the first of the front."""
    folder.write(CSV, csv_text(trials, settings))
    best = best_front(trials, settings)
    if not best or not best[0].figures:
        return
    told, rounds = best[0].figures, base.experiment.rounds
    figures = ", ".join(
        f"{name} {settings.asked.text(name, told)}" for name in settings.objectives
    )
    text = f"# Trial {best[0].number} of {len(trials)}: {figures}{settings.asked.until} in {told.rounds} rounds.\n"
    text += f"# Searched: {', '.join(f'{key} = {text}' for key, text in settings.search.items())}.\n"
    if settings.rounds not in (None, rounds):
        text += f"# Trials had {settings.rounds} rounds, the config has {rounds}: what is good for few may not be the best for many.\n"
    folder.write(BEST, f"{text}\n{to_toml(with_values(base, best[0].values))}")
