"""The figures of a run, from its summary where it has one and from its rounds where it has not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedlearn.records.line import Line
from fedlearn.records.reading import RunRecord, finite, number, section


@dataclass(frozen=True)
class Results:
    """The key figures of one run. Bytes are sums over all rounds; seconds are wall-clock; None: not known."""

    rounds: int
    accuracy: float | None
    best_accuracy: float | None
    best_round: int | None
    loss: float | None
    bytes_up: float
    bytes_down: float
    bytes_raw: float
    seconds: float
    seconds_training: float
    failed: int
    engine: str
    model_sha256: str

    @property
    def bytes_total(self) -> float:
        """Return the bytes of both directions."""
        return self.bytes_up + self.bytes_down


@dataclass(frozen=True)
class Curve:
    """The evaluated rounds of a run. Bytes are of both directions and all rounds so far; raw: as float32."""

    rounds: tuple[int, ...]
    bytes_total: tuple[float, ...]
    bytes_raw: tuple[float, ...]
    accuracy: tuple[float, ...]


def results(run: RunRecord) -> Results:
    """Return the key figures; whatever the summary lacks is computed from the rounds."""
    curve = accuracy_curve(run.lines)
    best = max(range(len(curve.rounds)), key=lambda i: curve.accuracy[i], default=None)
    losses = [line for line in run.lines if number(line, "loss") is not None]
    return Results(
        rounds=run.lines[-1]["round"],
        accuracy=_either(run, "accuracy", curve.accuracy[-1] if curve.rounds else None),
        best_accuracy=_either(
            run, "best_accuracy", None if best is None else curve.accuracy[best]
        ),
        best_round=None if best is None else curve.rounds[best],
        loss=_either(run, "loss", number(losses[-1], "loss") if losses else None),
        bytes_up=_sum(run, "bytes_up"),
        bytes_down=_sum(run, "bytes_down"),
        bytes_raw=_sum(run, "bytes_raw"),
        seconds=_sum(run, "seconds"),
        seconds_training=_sum(run, "seconds_training"),
        failed=int(sum(finite(line, "failed") or 0 for line in run.lines)),
        engine=engine_text(run),
        model_sha256=str(run.summary.get("model_sha256") or ""),
    )


def _either(run: RunRecord, key: str, computed: float | None) -> float | None:
    recorded = number(run.summary, key)
    return computed if recorded is None else recorded


def _sum(run: RunRecord, key: str) -> float:
    recorded = finite(run.summary, key)
    return (
        recorded
        if recorded is not None
        else sum(finite(line, key) or 0 for line in run.lines)
    )


def engine_text(run: RunRecord) -> str:
    """Return the engine in words, e.g. "pool, 2 workers"; "" when it is not recorded."""
    engine = section(run.manifest, "engine") or section(run.config, "engine")
    workers = finite(engine, "workers")
    kind = str(engine.get("kind") or "")
    if not kind:
        return str(run.summary.get("engine") or "")
    return (
        f"{kind}, {workers:.0f} worker{'' if workers == 1 else 's'}"
        if workers
        else kind
    )


def accuracy_curve(lines: Sequence[Line]) -> Curve:
    """Return the rounds that were evaluated, with the bytes exchanged up to and including each."""
    points: list[tuple[int, float, float, float]] = []
    total = raw = 0.0
    for line in lines:
        total += (finite(line, "bytes_up") or 0) + (finite(line, "bytes_down") or 0)
        raw += finite(line, "bytes_raw") or 0
        accuracy = finite(line, "accuracy")
        if accuracy is not None:
            points.append((line["round"], total, raw, accuracy))
    rounds, totals, raws, accuracies = (
        zip(*points, strict=True) if points else ((), (), (), ())
    )
    return Curve(rounds, totals, raws, accuracies)


def crossing(
    x: Sequence[float], accuracy: Sequence[float], target: float
) -> float | None:
    """Return where the best accuracy so far first reaches the target; None when it never does.

    x: rounds or bytes, ascending, as long as ``accuracy``. The curve is made monotone by the best value of all points
    before, then crossed with linear interpolation between its points: McMahan, Moore, Ramage, Hampson, Agüera y Arcas,
    "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017, section 3.
    A first point that already reaches the target counts as it is.
    """
    best = previous = None
    for position, value in zip(x, accuracy, strict=True):
        if value >= target:
            if best is None or previous is None:
                return float(position)
            return previous + (position - previous) * (target - best) / (value - best)
        best = value if best is None else max(best, value)
        previous = position
    return None


def labels(runs: Sequence[RunRecord]) -> list[str]:
    """Return one distinct label per run: its name, with the folder added where names repeat."""
    names = [run.name for run in runs]
    for places in (
        [run.folder.resolve().name for run in runs],
        [str(run.folder) for run in runs],
    ):
        repeated = [names.count(name) > 1 for name in names]
        full = [
            f"{run.name} ({place})" for run, place in zip(runs, places, strict=True)
        ]
        names = [
            new if again else old
            for old, new, again in zip(names, full, repeated, strict=True)
        ]
    return names
