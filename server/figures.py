"""What a coordinator counts, as Prometheus' text; and the lines of a growing metrics file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Counters that are shown before they are first counted: a rate needs a 0 to start from.
COUNTED = (
    "attended",
    "left",
    "silent",
    "failed",
    "declined",
    "late",
    "lacking",
    "refused",
    "malformed",
    "oversized",
    "differs",
)


@dataclass(frozen=True)
class ExchangeFigures:
    """What the service knows of itself; bytes are those of payloads.

    open: pieces of work without an answer. lines_lost: of the log. trouble: why the
    coordinator is not well.
    """

    attending: int
    open: int
    counters: Mapping[str, int]
    up_bytes: int
    down_bytes: int
    journal_bytes: int
    lines_lost: int = 0
    enrollments: Mapping[str, int] = field(default_factory=dict)
    trouble: str | None = None


class Lines:
    """The lines of a `metrics.jsonl` that grows: each look reads what is new.

    last: the newest line. scored: the newest with an accuracy.
    """

    def __init__(self, path: Path) -> None:
        """Take the file's path; it need not exist yet."""
        self.path = path
        self.last: dict[str, Any] = {}
        self.scored: dict[str, Any] = {}
        self._offset = 0

    def look(self) -> None:
        """Read on.

        A file that has become shorter, as a resumed run's, is read from its beginning.
        """
        for row in self._new_rows():
            try:
                metrics = json.loads(row)
            # A line that something else wrote must not end the figures.
            except (ValueError, RecursionError):
                continue
            if not isinstance(metrics, dict):
                continue
            if not isinstance(metrics.get("round"), int):
                continue
            self.last = metrics
            if metrics.get("accuracy") is not None:
                self.scored = metrics

    def _new_rows(self) -> list[bytes]:
        """Return the lines that are whole and were not returned before."""
        try:
            with self.path.open("rb") as file:
                # A resumed run cuts the lines that its checkpoint does not know.
                if file.seek(0, 2) < self._offset:
                    self._offset = 0
                file.seek(self._offset)
                # A line without its end is still being written.
                text = file.read().rpartition(b"\n")[0]
        except OSError:
            return []
        if not text:
            return []
        self._offset += len(text) + 1
        return text.split(b"\n")


class Exposition:
    """Metrics in Prometheus' text format, version 0.0.4.

    A value that is no number is left out, and a metric without values too.
    """

    def __init__(self) -> None:
        """Begin without metrics."""
        self._lines: list[str] = []

    def gauge(self, name: str, help_text: str, value: object) -> None:
        """Add a metric that goes up and down."""
        self._add(name, "gauge", help_text, [("", value)])

    def counter(self, name: str, help_text: str, value: object) -> None:
        """Add a metric that only grows."""
        self._add(name, "counter", help_text, [("", value)])

    def gauges(
        self, name: str, help_text: str, label: str, values: Mapping[str, float]
    ) -> None:
        """Add a metric that goes up and down, for each value of a label."""
        self._add(name, "gauge", help_text, _labelled(label, values))

    def counters(
        self, name: str, help_text: str, label: str, counts: Mapping[str, float]
    ) -> None:
        """Add a metric that only grows, for each value of a label."""
        self._add(name, "counter", help_text, _labelled(label, counts))

    def text(self) -> str:
        """Return all metrics."""
        return "\n".join(self._lines) + "\n"

    def _add(
        self, name: str, kind: str, help_text: str, values: Iterable[tuple[str, object]]
    ) -> None:
        name = f"fedlearn_{name}"
        rows = [
            # 17 digits tell every float64 apart.
            f"{name}{labels} {float(value):.17g}"
            for labels, value in values
            if isinstance(value, int | float)
        ]
        if rows:
            self._lines.append(f"# HELP {name} {help_text}")
            self._lines.append(f"# TYPE {name} {kind}")
            self._lines += rows


def _labelled(label: str, values: Mapping[str, float]) -> list[tuple[str, object]]:
    """Return (labels, value) for each value of a label, sorted."""
    rows: list[tuple[str, object]] = []
    for name, value in sorted(values.items()):
        # The format's own escapes; names may come from a package.
        text = name.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
        rows.append((f'{{{label}="{text}"}}', value))
    return rows


def exposition(figures: ExchangeFigures, lines: Lines, rounds: int) -> str:
    """Return figures in Prometheus' text format. rounds: those of the whole run."""
    out = Exposition()
    out.gauge("healthy", "1: /healthz says ok", int(figures.trouble is None))
    out.gauge("agents_attending", "Agents that are connected", figures.attending)
    _add_run(out, lines, rounds)
    add_exchange(out, figures)
    return out.text()


def _add_run(out: Exposition, lines: Lines, rounds: int) -> None:
    """Add what the run's own metrics say."""
    last = lines.last
    scored = lines.scored
    out.gauge("rounds_done", "Rounds that are done", last.get("round", 0))
    out.gauge("rounds", "Rounds of the whole run", rounds)
    out.gauge("round_seconds", "Seconds of the last round", last.get("seconds"))
    out.gauge(
        "accuracy",
        "Accuracy of the newest model that was scored, a share of 1",
        scored.get("accuracy"),
    )
    out.gauge("loss", "Loss of the newest model that was scored", scored.get("loss"))


def add_exchange(out: Exposition, figures: ExchangeFigures) -> None:
    """Add what happened between agents and coordinator."""
    out.gauge("work_open", "Pieces of work without an answer", figures.open)
    out.counters(
        "exchange_events_total",
        "What happened between agents and coordinator",
        "event",
        dict.fromkeys(COUNTED, 0) | dict(figures.counters),
    )
    out.counters(
        "payload_bytes_total",
        "Bytes of payloads, sent again included",
        "direction",
        {"up": figures.up_bytes, "down": figures.down_bytes},
    )
    out.gauge("journal_bytes", "Bytes of the journal", figures.journal_bytes)
    out.counters(
        "enrolments_total", "Enrollments by result", "result", figures.enrollments
    )
    out.counter(
        "log_lines_lost_total", "Lines that fleet.log lacks", figures.lines_lost
    )
