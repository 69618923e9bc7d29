"""A coordinator's figures for Prometheus and its health, by HTTP on this machine alone."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from fedlearn.errors import RunError

LOOPBACK = "127.0.0.1"

SILENT_S = 5.0
"""How long a caller may take for its request."""

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
"""Counters that are told before they are first counted: a rate needs a 0 to start from."""


@dataclass(frozen=True)
class Figures:
    """What the service knows of itself; bytes are those of payloads."""

    attending: int
    open: int  # pieces of work without an answer
    counters: Mapping[str, int]
    up_bytes: int
    down_bytes: int
    journal_bytes: int
    lines_lost: int = 0  # of the log
    enrollments: Mapping[str, int] = field(default_factory=dict)
    trouble: str | None = None  # why the coordinator is not well


class Lines:
    """The lines of a `metrics.jsonl` that grows: each look reads what is new."""

    def __init__(self, path: Path) -> None:
        """Take the file's path; it need not exist yet."""
        self.path = path
        self.last: dict[str, Any] = {}  # the newest line
        self.scored: dict[str, Any] = {}  # the newest with an accuracy
        self._at = 0

    def look(self) -> None:
        """Read on; a file that has become shorter, as a resumed run's, is read from its beginning."""
        try:
            with self.path.open("rb") as file:
                if file.seek(0, 2) < self._at:
                    self._at = 0
                file.seek(self._at)
                whole = file.read().rpartition(b"\n")[0]
        except OSError:
            return
        if not whole:
            return
        self._at += len(whole) + 1
        for text in whole.split(b"\n"):
            try:
                found = json.loads(text)
            except (ValueError, RecursionError):
                continue
            if isinstance(found, dict) and isinstance(found.get("round"), int):
                self.last = found
                self.scored = (
                    found if found.get("accuracy") is not None else self.scored
                )


def exposition(figures: Figures, lines: Lines, rounds: int) -> str:
    """Return figures in Prometheus' text format, version 0.0.4. rounds: those of the whole run."""
    last = lines.last
    out: list[str] = []

    def tell(
        name: str, kind: str, about: str, values: Iterable[tuple[str, float]]
    ) -> None:
        known = [
            (labels, value)
            for labels, value in values
            if isinstance(value, int | float)
        ]
        if known:
            out.extend(
                (f"# HELP fedlearn_{name} {about}", f"# TYPE fedlearn_{name} {kind}")
            )
            out.extend(
                f"fedlearn_{name}{labels} {float(value):.17g}"
                for labels, value in known
            )

    def one(value: Any) -> list[tuple[str, float]]:
        return [("", value)]

    def each(label: str, counts: Mapping[str, float]) -> list[tuple[str, float]]:
        return [
            (f'{{{label}="{name}"}}', count) for name, count in sorted(counts.items())
        ]

    tell("healthy", "gauge", "1: /healthz says ok", one(int(figures.trouble is None)))
    tell(
        "agents_attending", "gauge", "Agents that are connected", one(figures.attending)
    )
    tell("rounds_done", "gauge", "Rounds that are done", one(last.get("round", 0)))
    tell("rounds", "gauge", "Rounds of the whole run", one(rounds))
    tell(
        "round_seconds", "gauge", "Seconds of the last round", one(last.get("seconds"))
    )
    tell(
        "accuracy",
        "gauge",
        "Accuracy of the newest model that was scored, a share of 1",
        one(lines.scored.get("accuracy")),
    )
    tell(
        "loss",
        "gauge",
        "Loss of the newest model that was scored",
        one(lines.scored.get("loss")),
    )
    tell("work_open", "gauge", "Pieces of work without an answer", one(figures.open))
    counters = dict.fromkeys(COUNTED, 0) | dict(figures.counters)
    tell(
        "exchange_events_total",
        "counter",
        "What happened between agents and coordinator",
        each("event", counters),
    )
    sent = {"up": figures.up_bytes, "down": figures.down_bytes}
    tell(
        "payload_bytes_total",
        "counter",
        "Bytes of payloads, sent again included",
        each("direction", sent),
    )
    tell("journal_bytes", "gauge", "Bytes of the journal", one(figures.journal_bytes))
    tell(
        "enrolments_total",
        "counter",
        "Enrollments by result",
        each("result", figures.enrollments),
    )
    tell(
        "log_lines_lost_total",
        "counter",
        "Lines that fleet.log lacks",
        one(figures.lines_lost),
    )
    return "\n".join(out) + "\n"


class Pages:
    """The HTTP server: `/metrics` and `/healthz`, in threads of its own."""

    def __init__(
        self, port: int, figures: Callable[[], Figures], lines: Lines, rounds: int
    ) -> None:
        """Listen on a port of 127.0.0.1 (0: any that is free); raises RunError when it is taken.

        figures: returns them as they are now; raises RunError where it cannot. lines, rounds: of the run.
        """
        self._figures, self._lines, self._rounds = figures, lines, rounds
        self._looking = threading.Lock()
        pages = {"/metrics": self._metrics, "/healthz": self._health}
        try:
            self._server = _Server((LOOPBACK, port), _answers(pages))
        except OSError as error:
            raise RunError(
                f"cannot tell metrics at {LOOPBACK}:{port}: {error.strerror or error}; give another --metrics-port"
            ) from None
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()

    def _metrics(self) -> tuple[int, str]:
        figures = self._figures()
        with self._looking:  # two callers at once would read the same lines twice
            self._lines.look()
            return 200, exposition(figures, self._lines, self._rounds)

    def _health(self) -> tuple[int, str]:
        trouble = self._figures().trouble
        return (200, "ok\n") if trouble is None else (503, f"{trouble}\n")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 16

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a caller that went away is no concern of the run's."""


def _answers(
    pages: Mapping[str, Callable[[], tuple[int, str]]],
) -> type[BaseHTTPRequestHandler]:
    class Answers(BaseHTTPRequestHandler):
        timeout = SILENT_S

        def do_GET(self) -> None:
            page = pages.get(self.path.partition("?")[0])
            try:
                code, text = (
                    page() if page else (404, f"there is {' and '.join(pages)}\n")
                )
            except RunError as error:
                code, text = 503, f"{error}\n"
            data = text.encode()
            self.send_response(code)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    return Answers
