"""The place that a served model stands in, and how another version takes it without a gap.

A request is answered by the version that checked it. So both sessions are in memory from
the moment that the new one is loaded until the last batch of the old one has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from fedlearn.clients.infer import record
from fedlearn.clients.infer.model import ServedModel, load
from fedlearn.errors import FedlearnError, one_line

# Seconds between two looks at the record: a stat costs some microseconds.
WATCH_S = 0.5


@dataclass
class Swaps:
    """What became of changes of the version. error: of the last one; "": it went well."""

    count: int = 0
    failed: int = 0
    error: str = ""


class ModelSlot:
    """One model that can be replaced while it answers."""

    def __init__(
        self, source: Path, say: Callable[[str], None], int8: bool = False
    ) -> None:
        """Serve the model of a source: a record, or a model. Raises what `load` raises."""
        # Before it is read: what changes meanwhile is seen as a change.
        self._stamp = record.stamp(source)
        self._int8 = int8
        self.model: ServedModel = load(record.target(source), int8)
        self.swaps = Swaps()
        self._source = source
        self._say = say
        # One: two loads at a time would be three models in memory.
        self._loader = ThreadPoolExecutor(1, "fedlearn-load")
        self._lock = asyncio.Lock()

    async def swap(self) -> None:
        """Load what the source is now, and serve it from the next request on.

        What cannot be loaded changes nothing but `swaps`: the old version goes on.
        """
        loop = asyncio.get_running_loop()
        async with self._lock:
            # Before it is read: what changes meanwhile is seen as a change again.
            self._stamp = record.stamp(self._source)
            try:
                model = await loop.run_in_executor(self._loader, self._load)
            except (FedlearnError, OSError, MemoryError) as error:
                self.swaps.failed += 1
                self.swaps.error = one_line(error)
                self._say(f"version {self.model.version} goes on: {one_line(error)}")
                return
            before = self.model.version
            self.model = model
            self.swaps.count += 1
            self.swaps.error = ""
            self._say(f"version {model.version} serves in the place of {before}")

    async def watch(self) -> None:
        """Swap whenever the record is replaced, for ever."""
        while True:
            await asyncio.sleep(WATCH_S)
            stamp = record.stamp(self._source)
            # A record that is away for a moment is being replaced by hand.
            if stamp is not None and stamp != self._stamp:
                await self.swap()

    def _load(self) -> ServedModel:
        return load(record.target(self._source), self._int8)
