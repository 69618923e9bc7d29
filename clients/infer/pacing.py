"""What a server makes ready for the load that it expects: its batches, and its connections."""

from __future__ import annotations

import asyncio

from fedlearn.clients.infer.oip import Served
from fedlearn.clients.placement.forecast import Forecast, batch_limit

# Seconds of a period, whose requests are counted together.
PERIOD_S = 1.0


class Pacing:
    """Sets a server's limits once a period, by the forecast of its requests."""

    def __init__(self, served: Served, most: int) -> None:
        """Begin with no counts. most: samples of a batch at most."""
        self.forecast = Forecast()
        self._served = served
        self._most = most
        self._before = 0

    async def run(self) -> None:
        """Look at each period, for ever."""
        while True:
            await asyncio.sleep(PERIOD_S)
            self.step()

    def step(self) -> None:
        """End a period: count its samples, and make ready for the next one."""
        total = self._served.batcher.samples
        self.forecast.add(total - self._before)
        self._before = total
        rate = self.forecast.next() / PERIOD_S
        self._served.expected_rate = rate
        classes = self._served.classes
        if classes is not None:
            batcher = self._served.batcher
            batcher.limit = batch_limit(
                rate, batcher.row_s, classes.shortest_s, self._most
            )
        if self._served.placing is not None:
            self._served.placing.prepare(rate)
