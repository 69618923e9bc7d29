"""`Notes`: lines for whoever watches a run, those of one kind said once."""

from __future__ import annotations

from collections.abc import Callable


class Notes:
    """Says things in a run's output."""

    def __init__(self, say: Callable[[str], None]) -> None:
        """Take what shows a line."""
        self.say = say
        self._kinds: set[str] = set()

    def once(self, text: str, kind: str = "") -> None:
        """Say a text, unless one of its kind was said before. kind: "": the text itself."""
        if (kind or text) in self._kinds:
            return
        self._kinds.add(kind or text)
        self.say(text)
