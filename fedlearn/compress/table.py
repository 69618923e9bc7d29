"""The variants side by side, for a terminal and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedlearn.compress.rows import Candidate
from fedlearn.reporting.table import plain
from fedlearn.reporting.units import bytes_text, count_text, percent_text

HEADINGS = (
    "model",
    "accuracy",
    "bytes",
    "parameters",
    "CPU µs",
    "time",
    "memory",
    "",
)

CHOSEN = "chosen"


def table(rows: Sequence[Candidate], chosen: Candidate | None) -> str:
    """Return the rows aligned: the original first, then every variant and its verdict."""
    lines: list[Sequence[str]] = [HEADINGS]
    for row in rows:
        verdict = row.refusal and f"refused: {row.refusal}"
        if chosen is not None and row.name == chosen.name:
            verdict = CHOSEN
        lines.append(
            (
                row.name,
                percent_text(row.accuracy),
                bytes_text(row.bytes),
                count_text(row.parameters),
                f"{row.cpu_us:.1f}",
                f"{row.cpu_ratio:.2f}×",
                bytes_text(row.peak_bytes),
                verdict,
            )
        )
    # A verdict is text, which reads from its left: it is padded to one length.
    width = max(len(line[-1]) for line in lines)
    return plain([[*line[:-1], line[-1].ljust(width)] for line in lines])


def cut_lines(facts: Mapping[str, Any]) -> str:
    """Return what a cut came to, in lines: both parts, and what crosses between them."""
    return "\n".join(
        f"{part}: {bytes_text(facts[f'{part}_bytes'])}, "
        f"{facts[f'{part}_cpu_us']:.1f} µs of {facts['whole_cpu_us']:.1f}"
        for part in ("head", "tail")
    ) + (
        f"\nafter '{facts['layer']}' of {facts['model']}, "
        f"{bytes_text(facts['crossing_bytes'])} cross for each sample"
    )
