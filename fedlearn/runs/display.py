"""What a run needs of whoever shows its progress."""

from __future__ import annotations

from typing import Protocol

from fedlearn.records.line import Line


class Display(Protocol):
    """What shows a run's progress."""

    def round_done(self, line: Line) -> None:
        """Show a round's line."""

    def note(self, text: str) -> None:
        """Show a warning."""
