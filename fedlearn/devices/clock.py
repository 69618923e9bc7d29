"""The virtual clock: how long each client's part of a round takes on its device, and its energy.

A round lasts as long as its slowest client: until it may be asked, the download, local training,
the upload. With a deadline, clients beyond it are late, and the round lasts until the deadline.
Not modelled: the server's own time, clients that share one link, a device that goes away while it
works, and heat.

Legend: N clients.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import fsum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedlearn.devices.profiles import DeviceProfile, Devices
from fedlearn.records.line import DevicesLine

# The fields of `Spent`, in the order in which they pass.
PARTS = ("away", "down", "compute", "up")

# What `metrics.jsonl` has for each profile in a round.
KEYS = ("clients", "late", *PARTS, "wait", "joules")


@dataclass(frozen=True)
class Spent:
    """Seconds of one client in one round, in the order in which they pass."""

    # Until the device may be asked.
    away: float
    down: float
    compute: float
    up: float

    @property
    def total(self) -> float:
        """Return their sum."""
        # In the order of `PARTS`, which fixes the last bit.
        before_training = self.away + self.down
        return before_training + self.compute + self.up

    def until(self, limit: float) -> Spent:
        """Return the seconds of each part that pass before a limit."""
        seconds = []
        remaining = limit
        for part in PARTS:
            passed = min(getattr(self, part), remaining)
            seconds.append(passed)
            remaining -= passed
        return Spent(*seconds)


class ClientCost(NamedTuple):
    """One client's part of a round that is over: its seconds, its joules, whether it was late."""

    time: Spent
    energy: float
    late: bool


def spent(
    profile: DeviceProfile,
    away_s: float,
    bytes_down: float,
    flops: float,
    bytes_up: float,
) -> Spent:
    """Return the seconds that a client's part of a round takes on a device."""
    # Mbit/s are 10**6 bits per second; each transfer takes the latency once.
    latency_s = profile.latency_ms / 1000
    down_bps = 1e6 * profile.down_mbps
    up_bps = 1e6 * profile.up_mbps
    down_s = latency_s + 8 * bytes_down / down_bps
    up_s = latency_s + 8 * bytes_up / up_bps
    compute_s = flops / profile.flops
    return Spent(away_s, down_s, compute_s, up_s)


def joules(profile: DeviceProfile, time: Spent) -> float:
    """Return the energy that a client's part adds to what its device takes when idle."""
    training_w = profile.train_w - profile.idle_w
    radio_w = profile.radio_w - profile.idle_w
    radio_s = time.down + time.up
    return training_w * time.compute + radio_w * radio_s


class Clock:
    """The time of a run on its simulated devices; see the module."""

    def __init__(self, devices: Devices, deadline_s: float, raw_bytes: int) -> None:
        """Take the devices. deadline_s: 0 = none.

        raw_bytes: of a whole model, the payload that is expected before the first round.
        """
        self.devices = devices
        self.deadline_s = deadline_s
        self.now_s = 0.0
        # Mean bytes down and up of a client in the last round.
        self.usual = (float(raw_bytes), float(raw_bytes))
        # Of the cohort that runs now: client → its seconds, whether it is late.
        self._cohort: dict[int, tuple[Spent, bool]] = {}
        # Of the same cohort: messages, bytes down, bytes up.
        self._bytes = (0, 0, 0)
        self._begun_s = 0.0
        self._line = _empty()

    def begin(self) -> None:
        """Start the clients of one cohort, all at once."""
        self._cohort = {}
        self._bytes = (0, 0, 0)
        self._begun_s = self.now_s

    def add(
        self, client: int, bytes_down: int, flops: float, bytes_up: int
    ) -> tuple[Spent, bool]:
        """Return a client's seconds, and whether it is late."""
        profile = self.devices.of(client)
        away_s = self.devices.away_of(client, self._begun_s)
        time = spent(profile, away_s, bytes_down, flops, bytes_up)
        late = bool(self.deadline_s) and time.total > self.deadline_s
        self._cohort[client] = (time, late)
        # A part without an upload says nothing of the usual payload.
        if bytes_up:
            messages, down, up = self._bytes
            self._bytes = (messages + 1, down + bytes_down, up + bytes_up)
        return time, late

    def end(self) -> None:
        """Let the time of the cohort pass.

        Sums go by client number, so that the order of answers changes no bit.
        """
        if not self._cohort:
            return
        duration_s = self._duration_s()
        by_profile: dict[str, list[ClientCost]] = {}
        for client, (time, late) in sorted(self._cohort.items()):
            within = time.until(duration_s)
            energy = joules(self.devices.of(client), within)
            costs = by_profile.setdefault(self.devices.name(client), [])
            costs.append(ClientCost(within, energy, late))
        # In the order of the config, in which reports show them.
        for name in self.devices.names:
            if name in by_profile:
                row = self._line["by_profile"].setdefault(name, dict.fromkeys(KEYS, 0))
                _add_costs(row, by_profile[name], duration_s)
        self.now_s += duration_s
        self._line["seconds"] += duration_s
        messages, down, up = self._bytes
        if messages:
            self.usual = (down / messages, up / messages)
        self._cohort = {}

    def _duration_s(self) -> float:
        """Return how long the cohort's round lasts."""
        longest_s = 0.0
        for time, late in self._cohort.values():
            # A late client is not waited for beyond the deadline.
            if late:
                return self.deadline_s
            longest_s = max(longest_s, time.total)
        return longest_s

    def expected_s(self, flops: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the seconds that each client would need once it may be asked, (N,).

        The payloads are assumed to be those of the last round. flops: (N,) of each client.
        """
        down, up = self.usual
        down_mbps = self.devices.each("down_mbps")
        up_mbps = self.devices.each("up_mbps")
        # 8 bits a byte, 10**6 bits per second.
        transfer_s = 8e-6 * (down / down_mbps + up / up_mbps)
        # Two transfers; milliseconds.
        latency_s = 2e-3 * self.devices.each("latency_ms")
        return transfer_s + latency_s + flops / self.devices.each("flops")

    def take(self) -> DevicesLine:
        """Return what `metrics.jsonl` says of the round that ends, and begin the next one.

        Seconds of ``by_profile`` are sums over its clients; ``wait`` is for slower clients.
        Joules are above idle.
        """
        line = self._line
        self._line = _empty()
        rows = line["by_profile"].values()
        # The others are sums over rounds; this is the clock at the end.
        line["now_s"] = self.now_s
        line["joules"] = fsum(row["joules"] for row in rows)
        line["late"] = int(sum(row["late"] for row in rows))
        return line

    def sync(self) -> dict[str, NDArray[Any]]:
        """Return what a checkpoint has to hold."""
        values = [self.now_s, *self.usual]
        return {"devices.clock": np.array(values)}

    def checkpointed(self) -> None:
        """Do nothing: all is in the checkpoint."""

    def recall(
        self,
        saved: Mapping[str, NDArray[Any]] | None,
        older: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        """Go back to what a checkpoint holds; None: to the beginning."""
        if saved is not None:
            # Plain floats: numpy's would go on into what is written as JSON.
            now_s, down, up = saved["devices.clock"].tolist()
            self.now_s = now_s
            self.usual = (down, up)


def _empty() -> DevicesLine:
    """Return the line of a round in which no time has passed."""
    return {"seconds": 0.0, "by_profile": {}, "now_s": 0.0, "joules": 0.0, "late": 0}


def _add_costs(
    row: dict[str, float], costs: list[ClientCost], duration_s: float
) -> None:
    """Add one cohort's clients of a profile to the profile's row.

    fsum rounds once, so that the sums do not depend on the order of the clients.
    """
    row["clients"] += len(costs)
    row["late"] += sum(cost.late for cost in costs)
    row["joules"] += fsum(cost.energy for cost in costs)
    for part in PARTS:
        seconds = [getattr(cost.time, part) for cost in costs]
        row[part] += fsum(seconds)
    waits = [duration_s - cost.time.total for cost in costs]
    # A rounding error below 0 is no waiting.
    row["wait"] += fsum(max(0.0, wait) for wait in waits)
