"""What is known of each variant, whether it may take the original's place, and which does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from fedlearn.reporting.units import percent_text

# How many times the original's CPU time counts as slower. Equal models measured in turns
# came to 0.977 to 1.014 times one another's.
SLOWER = 1.05


@dataclass(frozen=True)
class Candidate:
    """The figures of one model. The names of the fields are keys in ``compress.json``.

    folder: of the model, below the output folder. files: what of it a device gets, its
    graph and its weights. bytes: of these. accuracy: share of 1, on the whole test set. cpu_us: CPU
    microseconds of a call with one sample, on one thread. cpu_ratio: how many times the
    original's. peak_bytes: of a process that only loads and runs it; None: not known.
    refusal: why it may not take the original's place; "": it may.
    """

    name: str
    folder: str
    files: tuple[str, ...]
    accuracy: float
    bytes: int
    parameters: int
    cpu_us: float
    cpu_ratio: float
    peak_bytes: int | None
    refusal: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the row as JSON has it."""
        return asdict(self)


def refusal_of(row: Candidate, original: Candidate, gate: float) -> str:
    """Return why a variant is refused, with its figure; "": it may take the original's place.

    gate: percentage points of accuracy that it may lose.
    """
    loss = lost_points(row, original)
    reasons = []
    # Not one count of the test set more than the gate, whatever floats make of it. A NaN
    # is below nothing.
    if not loss <= gate + 1e-9:
        reasons.append(f"loses {loss:.2f} points, more than {gate:g}")
    if not row.cpu_ratio <= SLOWER:
        reasons.append(f"slower: {row.cpu_ratio:.2f} times the CPU time")
    if row.bytes >= original.bytes:
        reasons.append("not smaller")
    return "; ".join(reasons)


def judged(rows: Sequence[Candidate], gate: float) -> list[Candidate]:
    """Return rows with their refusals; the first is the original, which is never refused."""
    original = rows[0]
    variants = [
        replace(row, refusal=refusal_of(row, original, gate)) for row in rows[1:]
    ]
    return [original, *variants]


def lost_points(row: Candidate, original: Candidate) -> float:
    """Return how many percentage points of accuracy a variant loses; below 0: it gains."""
    return 100 * (original.accuracy - row.accuracy)


def best(rows: Sequence[Candidate]) -> Candidate | None:
    """Return the smallest variant that is not refused; of equal ones the faster one.

    rows: the original first, which is no variant. None: all are refused.
    """
    passed = [row for row in rows[1:] if not row.refusal]
    return min(passed, key=lambda row: (row.bytes, row.cpu_us), default=None)


def unbeaten(rows: Sequence[Candidate]) -> list[Candidate]:
    """Return the rows that no other beats in bytes and accuracy: the Pareto front.

    From the smallest on.
    """
    front: list[Candidate] = []
    # Of one size the most accurate comes first, and beats the others.
    for row in sorted(rows, key=lambda row: (row.bytes, -row.accuracy)):
        if not front or row.accuracy > front[-1].accuracy:
            front.append(row)
    return front


def summary(row: Candidate, original: Candidate) -> str:
    """Return what a variant comes to, in one line."""
    smaller = original.bytes / row.bytes
    faster = 1 / row.cpu_ratio
    accuracy = percent_text(row.accuracy)
    before = percent_text(original.accuracy)
    return f"{accuracy} of {before}, {smaller:.3g} times fewer bytes, {faster:.2f} times the speed"
