"""`Detour`: leads a strategy's calls of its own verbs through somebody else, and back again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from flwr.serverapp.strategy import Strategy


class Detour:
    """What ``self.VERB`` means on one strategy while its own ``start`` runs.

    Attributes of the object stand in front of those of its class. They go round its
    ``__setattr__``, which may refuse (a frozen dataclass) or count. A subclass made for the
    purpose would change ``type(self)``, which a strategy may look at.
    """

    def __init__(
        self, strategy: Strategy, verbs: Mapping[str, Callable[..., Any]]
    ) -> None:
        """Take the strategy, and what is called in the place of its verbs."""
        # Flower's base class has no slots, so that every strategy has such a dict.
        self._attributes = strategy.__dict__
        self._verbs = verbs
        # Attributes of the strategy's own by the names of verbs.
        self._replaced: dict[str, Any] = {}

    @contextmanager
    def led(self) -> Iterator[None]:
        """Lead the verbs through ours, inside the block."""
        self._put()
        try:
            yield
        finally:
            self._take()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Let the strategy be itself inside the block, which stands in one of `led`.

        Its verbs may copy it, save its attributes or call one another.
        """
        self._take()
        try:
            yield
        finally:
            self._put()

    def _put(self) -> None:
        for name, verb in self._verbs.items():
            if name in self._attributes:
                self._replaced[name] = self._attributes[name]
            self._attributes[name] = verb

    def _take(self) -> None:
        for name, verb in self._verbs.items():
            # By now the strategy may have put an attribute of its own there.
            if self._attributes.get(name) is verb:
                del self._attributes[name]
                self._attributes.update(self._own(name))

    def _own(self, name: str) -> dict[str, Any]:
        if name not in self._replaced:
            return {}
        return {name: self._replaced.pop(name)}
