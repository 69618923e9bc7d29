"""An event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

# Seconds that the thread is given to end.
_JOIN_S = 5.0


class LoopThread:
    """Runs coroutines for other threads."""

    def __init__(self, name: str) -> None:
        """Make the loop; it runs after `start`."""
        self.loop = asyncio.new_event_loop()
        # Daemon: a loop that hangs must not keep the process alive.
        self._thread = threading.Thread(target=self._live, name=name, daemon=True)

    def start(self) -> None:
        """Begin to run."""
        self._thread.start()

    def is_alive(self) -> bool:
        """Tell whether it runs."""
        return self._thread.is_alive()

    def call(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine in the loop's thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def stop(self) -> None:
        """End the loop and its thread."""
        # From outside, as loops are not safe to be called by other threads.
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(_JOIN_S)

    def _live(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()
