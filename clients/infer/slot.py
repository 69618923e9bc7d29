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


@dataclass(frozen=True)
class ShadowModel:
    """Another version, which answers a share (0 to 1) of the requests too."""

    model: ServedModel
    share: float


class ModelSlot:
    """One model that can be replaced while it answers."""

    def __init__(
        self, source: Path, say: Callable[[str], None], int8: bool = False
    ) -> None:
        """Serve the model of a source: a record, or a model. Raises what `load` raises."""
        # Before it is read: what changes meanwhile is seen as a change.
        self._stamp = record.stamp(source)
        self._int8 = int8
        self._source = source
        self._say = say
        self._serving = record.read(source)
        self.model: ServedModel = load(self._serving.model, int8)
        self.shadow = self._shadow(self._serving, None)
        self.swaps = Swaps()
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
                loading = loop.run_in_executor(self._loader, self._load)
                serving, model, shadow = await loading
            except (FedlearnError, OSError, MemoryError) as error:
                self.swaps.failed += 1
                self.swaps.error = one_line(error)
                self._say(f"version {self.model.version} goes on: {one_line(error)}")
                return
            before = self.model
            self._serving = serving
            self.model = model
            self.shadow = shadow
            self.swaps.error = ""
            # The shadow alone came or went.
            if model is before:
                return
            self.swaps.count += 1
            self._say(
                f"version {model.version} serves in the place of {before.version}"
            )

    async def watch(self) -> None:
        """Swap whenever the record is replaced, for ever."""
        while True:
            await asyncio.sleep(WATCH_S)
            stamp = record.stamp(self._source)
            # A record that is away for a moment is being replaced by hand.
            if stamp is not None and stamp != self._stamp:
                await self.swap()

    def _load(self) -> tuple[record.ServingRecord, ServedModel, ShadowModel | None]:
        """Return what is to be served now, which may be the same model."""
        serving = record.read(self._source)
        is_other = serving.model != self._serving.model
        # The same record once more means: load it again.
        if is_other or serving == self._serving:
            model = load(serving.model, self._int8)
        else:
            model = self.model
        return serving, model, self._shadow(serving, self._serving.model)

    def _shadow(
        self, serving: record.ServingRecord, current: Path | None
    ) -> ShadowModel | None:
        """Return the shadow of a record; None where there is none, or it cannot be loaded.

        current: what `model` was loaded from, which may become the shadow as it is.
        """
        if serving.shadow is None or not serving.share:
            return None
        if serving.shadow == current:
            return ShadowModel(self.model, serving.share)
        try:
            return ShadowModel(load(serving.shadow, self._int8), serving.share)
        # Without it, the model serves all the same, and is not compared.
        except (FedlearnError, OSError, MemoryError) as error:
            self._say(f"answers are not compared: {one_line(error)}")
            return None
