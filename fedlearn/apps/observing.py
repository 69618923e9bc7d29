"""What an app measures, heard while it runs: each metric under the app's own name.

Flower's strategies, and own ones whose ``start`` follows theirs, write a round's metrics
into a `Result`. Its three dicts are watched here, so a round's metrics are known when it
ends, whatever becomes of the `Result` itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from flwr.app import MetricRecord
from flwr.serverapp.strategy import Result

from fedlearn.apps.messages import Sent
from fedlearn.text import shortened

# A dict of `Result` → what its metrics are called in lines.
_KINDS = {
    "train_metrics_clientapp": "train",
    "evaluate_metrics_clientapp": "evaluate",
    "evaluate_metrics_serverapp": "server",
}

# Reasons of failed nodes that a line keeps.
_MOST_FAILURES = 20


@dataclass
class AppLine:
    """One round of an app, or one exchange of messages where it knows no rounds.

    part: which of the app's strategies, from 1. metrics: kind ("train", "evaluate" or
    "server") → metric → value. failures: node → reason, of the first few. seconds: of wall
    time. Bytes are of payloads as they travel; ``raw``: both ways, were each sent whole.
    """

    round: int
    part: int = 1
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    messages: int = 0
    failed: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    bytes_up: int = 0
    bytes_down: int = 0
    bytes_raw: int = 0
    seconds: float = 0.0

    def plain(self) -> dict[str, Any]:
        """Return the line as JSON has it."""
        return {
            "round": self.round,
            "part": self.part,
            **{kind: self.metrics.get(kind) for kind in _KINDS.values()},
            "messages": self.messages,
            "failed": self.failed,
            "failures": self.failures,
            "bytes_up": self.bytes_up,
            "bytes_down": self.bytes_down,
            "bytes_raw": self.bytes_raw,
            "seconds": self.seconds,
        }


class AppObserver:
    """Collects the lines of a run from what its Grid and its strategies do."""

    def __init__(
        self,
        on_line: Callable[[AppLine], None],
        on_look: Callable[[int, int, int], None],
    ) -> None:
        """Take what is called with each line that is complete, and while it waits."""
        self._on_line = on_line
        self._on_look = on_look
        self._line: AppLine | None = None
        self._begun = time.perf_counter()
        self._part = 0
        self.results: list[Result] = []

    def pushed(self, round_number: int | None, sent: Sequence[Sent]) -> None:
        """Note messages that are on their way; round_number: None where they name none."""
        # A loop may ask nobody in a round; that is no exchange.
        if not sent:
            return
        line = self._line_of(self._exchange(round_number))
        line.messages += len(sent)
        line.bytes_down += sum(len(content.payload) for content in sent)
        line.bytes_raw += sum(content.raw_bytes for content in sent)

    def answered(self, bytes_up: int, raw_bytes: int) -> None:
        """Note a reply."""
        line = self._line_of(None)
        line.bytes_up += bytes_up
        line.bytes_raw += raw_bytes

    def failed(self, node: int, reason: str) -> None:
        """Note a reply that is an error."""
        line = self._line_of(None)
        line.failed += 1
        # Of thousands one reason is as good as all.
        if len(line.failures) < _MOST_FAILURES:
            line.failures[str(node)] = shortened(reason)

    def looked(self, done: int, total: int) -> None:
        """Note how many messages of those waited for are answered."""
        self._on_look(self._line.round if self._line else 0, done, total)

    def measured(
        self, kind: str, round_number: int, metrics: Mapping[str, Any]
    ) -> None:
        """Note what an app measured."""
        line = self._line_of(round_number)
        line.metrics.setdefault(kind, {}).update(metrics)

    def end(self) -> None:
        """Hand out the last line."""
        self._close()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Hear what is written into each `Result` that is made inside the block."""
        # The class itself: apps import it, and make their own ones.
        original = Result.__init__

        def begin(result: Result, *arguments: Any, **options: Any) -> None:
            original(result, *arguments, **options)
            self._watch(result)

        Result.__init__ = begin  # type: ignore[method-assign,assignment]
        try:
            yield
        finally:
            Result.__init__ = original  # type: ignore[method-assign]

    def _watch(self, result: Result) -> None:
        # A new strategy counts its rounds anew.
        self._close()
        self._part += 1
        self.results.append(result)
        for name, kind in _KINDS.items():
            setattr(result, name, _Watched(getattr(result, name), kind, self.measured))

    def _exchange(self, round_number: int | None) -> int | None:
        """Return the round of messages; where there are no rounds each exchange is one."""
        if round_number is not None or self._part:
            return round_number
        return 1 if self._line is None else self._line.round + 1

    def _line_of(self, round_number: int | None) -> AppLine:
        """Return the open line, of a round or of whichever it is."""
        line = self._line
        if line is not None and round_number in (None, line.round):
            return line
        # What an earlier round measured late belongs to the line that is open.
        if line is not None and round_number is not None and round_number < line.round:
            return line
        self._close()
        self._line = AppLine(round_number or 0, max(self._part, 1))
        return self._line

    def _close(self) -> None:
        if self._line is None:
            return
        now = time.perf_counter()
        self._line.seconds = now - self._begun
        self._begun = now
        self._on_line(self._line)
        self._line = None


class _Watched(dict[int, MetricRecord]):
    """A dict of a `Result`: round → metrics, that tells of what is put into it."""

    def __init__(
        self,
        rounds: Mapping[int, MetricRecord],
        kind: str,
        measured: Callable[[str, int, Mapping[str, Any]], None],
    ) -> None:
        super().__init__(rounds)
        self._kind = kind
        self._measured = measured

    def __setitem__(self, round_number: int, metrics: MetricRecord) -> None:
        super().__setitem__(round_number, metrics)
        self._measured(self._kind, round_number, dict(metrics))
