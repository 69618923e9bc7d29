"""An app's lines and summary as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedlearn.apps.lines import KINDS, failed_text
from fedlearn.reporting.units import (
    bytes_text,
    count_text,
    number_text,
    short_time_text,
)
from fedlearn.text import shortened

# Metrics of a kind that a line shows; the file has all.
_MOST_SHOWN = 4


def line_text(line: Mapping[str, Any]) -> str:
    """Return a round in one line: messages, bytes, seconds and the app's own metrics."""
    parts = [f"round {line['round']:>3}"]
    # An app may call its strategy more than once; rounds count from 1 each time.
    if line["part"] > 1:
        parts[0] = f"part {line['part']}, {parts[0]}"
    parts.append(f"{line['messages']:>3} messages")
    if line["failed"]:
        parts.append(f"{line['failed']} failed")
    parts.append(f"{bytes_text(line['bytes_down'])} down")
    parts.append(f"{bytes_text(line['bytes_up'])} up")
    parts.append(short_time_text(line["seconds"]))
    for kind in KINDS:
        parts += _metrics(kind, line[kind])
    text = "  ".join(parts)
    # The first reason on the terminal, all of them in the file.
    if line["failures"]:
        node, reason = next(iter(line["failures"].items()))
        text += f"\n  node {node}: {shortened(reason)}"
    return text


def _metrics(kind: str, metrics: Mapping[str, Any] | None) -> list[str]:
    shown: list[str] = []
    for name, value in list((metrics or {}).items())[:_MOST_SHOWN]:
        # Lists have no room on a line.
        if isinstance(value, int | float):
            shown.append(f"{kind} {name} {number_text(value)}")
    return shown


def _failed(summary: Mapping[str, Any]) -> list[str]:
    # A ServerApp may have passed over them: nobody else would tell.
    text = failed_text(summary)
    return [f"failures  {text}"] if text else []


def summary_text(summary: Mapping[str, Any], folder: str) -> str:
    """Return how a run ended, in a few lines."""
    digest = summary["model_sha256"] or "none: no strategy gave a result"
    codec = summary["codec"]
    total_bytes = summary["bytes_up"] + summary["bytes_down"]
    lines = [
        f"rounds    {summary['rounds']}, {count_text(summary['messages'])} messages, "
        f"{summary['failed']} failed, {short_time_text(summary['seconds'])}",
        f"bytes     {bytes_text(total_bytes)} as sent, {bytes_text(summary['bytes_raw'])} whole "
        f"(up {codec['up']}, down {codec['down']})",
        *_failed(summary),
        f"model     {digest}",
        f"run       {folder}",
    ]
    for kind in KINDS:
        shown = _metrics(kind, summary[kind])
        # Above model and folder, which a reader looks for at the end.
        if shown:
            lines.insert(
                -2, f"{kind:<10}{', '.join(s.split(' ', 1)[1] for s in shown)}"
            )
    return "\n".join(lines)
