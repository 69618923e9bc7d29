"""The figures of a run, from its summary where it has one and from its rounds where it has not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedlearn.records.line import Line
from fedlearn.records.reading import RunRecord, amount, finite, number, section


@dataclass(frozen=True)
class Results:
    """The key figures of one run; None: not known."""

    rounds: int
    # Shares of 1, on held-out samples: after the last evaluated round, and the best one.
    accuracy: float | None
    best_accuracy: float | None
    best_round: int | None
    # On held-out samples, of the last evaluated round; it may be NaN.
    loss: float | None
    # Sums over all rounds, as encoded; raw: of the same exchange in plain float32.
    bytes_up: float
    bytes_down: float
    bytes_raw: float
    # Wall time of all rounds, and of local training in them.
    seconds: float
    seconds_training: float
    # Clients that failed, each once for each round.
    failed: int
    engine: str
    # "" while the run is unfinished.
    model_sha256: str

    @property
    def bytes_total(self) -> float:
        """Return the bytes of both directions."""
        return self.bytes_up + self.bytes_down


@dataclass(frozen=True)
class AccuracyCurve:
    """The evaluated rounds of a run, in order."""

    rounds: tuple[int, ...]
    # Of both directions and all rounds so far: as encoded, and as plain float32.
    bytes_total: tuple[float, ...]
    bytes_raw: tuple[float, ...]
    # Shares of 1, on held-out samples.
    accuracy: tuple[float, ...]

    @property
    def best(self) -> int | None:
        """Return the position of the first round with the best accuracy; None without any."""
        if not self.accuracy:
            return None
        return self.accuracy.index(max(self.accuracy))


def results(run: RunRecord) -> Results:
    """Return the key figures; whatever the summary lacks is computed from the rounds."""
    curve = accuracy_curve(run.lines)
    best_accuracy = None
    best_round = None
    if curve.best is not None:
        best_accuracy = curve.accuracy[curve.best]
        best_round = curve.rounds[curve.best]
    last_accuracy = curve.accuracy[-1] if curve.rounds else None
    # A summary's figures come first: they are of the whole run, also where lines are lost.
    return Results(
        rounds=run.lines[-1]["round"],
        accuracy=_recorded(run, "accuracy", last_accuracy),
        best_accuracy=_recorded(run, "best_accuracy", best_accuracy),
        best_round=best_round,
        loss=_recorded(run, "loss", _last_loss(run.lines)),
        bytes_up=_sum(run, "bytes_up"),
        bytes_down=_sum(run, "bytes_down"),
        bytes_raw=_sum(run, "bytes_raw"),
        seconds=_sum(run, "seconds"),
        seconds_training=_sum(run, "seconds_training"),
        failed=int(sum(amount(line, "failed") for line in run.lines)),
        engine=engine_text(run),
        model_sha256=str(run.summary.get("model_sha256") or ""),
    )


def _recorded(run: RunRecord, key: str, computed: float | None) -> float | None:
    """Return a figure of the summary, or where it has none the one computed from the rounds."""
    recorded = number(run.summary, key)
    if recorded is None:
        return computed
    return recorded


def _last_loss(lines: Sequence[Line]) -> float | None:
    for line in reversed(lines):
        loss = number(line, "loss")
        # Only evaluated rounds have one.
        if loss is not None:
            return loss
    return None


def _sum(run: RunRecord, key: str) -> float:
    recorded = finite(run.summary, key)
    if recorded is not None:
        return recorded
    return sum(amount(line, key) for line in run.lines)


def exchanged_bytes(line: Line) -> float:
    """Return the bytes of a round in both directions, as encoded."""
    up = amount(line, "bytes_up")
    down = amount(line, "bytes_down")
    return up + down


def engine_text(run: RunRecord) -> str:
    """Return the engine in words, e.g. "pool, 2 workers"; "" when it is not recorded."""
    engine = section(run.manifest, "engine") or section(run.config, "engine")
    kind = str(engine.get("kind") or "")
    if not kind:
        return str(run.summary.get("engine") or "")
    workers = finite(engine, "workers")
    # The config's 0 means all cores: how many, only the manifest says.
    if not workers:
        return kind
    if workers == 1:
        return f"{kind}, 1 worker"
    return f"{kind}, {workers:.0f} workers"


def expectations_of(summary: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return what the config expected, one entry each: ``what``, ``wanted``, ``got``, ``met``.

    Empty when it expected nothing, or the summary is damaged.
    """
    entries = summary.get("expectations")
    if not isinstance(entries, list):
        return []
    return [entry for entry in entries if isinstance(entry, Mapping)]


def accuracy_curve(lines: Sequence[Line]) -> AccuracyCurve:
    """Return the rounds that were evaluated, with the bytes exchanged up to and including each."""
    rounds: list[int] = []
    totals: list[float] = []
    raws: list[float] = []
    accuracies: list[float] = []
    total = 0.0
    raw = 0.0
    for line in lines:
        # Rounds that were not evaluated cost bytes too.
        total += exchanged_bytes(line)
        raw += amount(line, "bytes_raw")
        accuracy = finite(line, "accuracy")
        if accuracy is not None:
            rounds.append(line["round"])
            totals.append(total)
            raws.append(raw)
            accuracies.append(accuracy)
    return AccuracyCurve(tuple(rounds), tuple(totals), tuple(raws), tuple(accuracies))


def crossing(
    x: Sequence[float], accuracy: Sequence[float], target: float
) -> float | None:
    """Return where the best accuracy so far first reaches the target; None when it never does.

    x: rounds or bytes, ascending, as long as ``accuracy``. The curve is made monotone by the best
    value of all points before, then crossed with linear interpolation between its points: McMahan,
    Moore, Ramage, Hampson, Agüera y Arcas, "Communication-Efficient Learning of Deep Networks from
    Decentralized Data", AISTATS 2017, section 3. A first point that already reaches the target
    counts as it is.
    """
    best: float | None = None
    previous = 0.0
    for position, value in zip(x, accuracy, strict=True):
        if value >= target:
            if best is None:
                return float(position)
            # best < target <= value, so the divisor is positive.
            step = position - previous
            return previous + step * (target - best) / (value - best)
        best = value if best is None else max(best, value)
        previous = position
    return None


def labels(runs: Sequence[RunRecord]) -> list[str]:
    """Return one distinct label per run: its name, with the folder added where names repeat."""
    names = [run.name for run in runs]
    folder_names = [run.folder.resolve().name for run in runs]
    paths = [str(run.folder) for run in runs]
    # The folder's name may repeat too; its path as it was given does not.
    for places in (folder_names, paths):
        repeated = [names.count(name) > 1 for name in names]
        for position, run in enumerate(runs):
            if repeated[position]:
                names[position] = f"{run.name} ({places[position]})"
    return names
