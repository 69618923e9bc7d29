"""The virtual clock: how long each client's part of a round takes on its device, and what it costs.

A round lasts as long as its slowest client: until it may be asked, the download, local training, the upload. With a
deadline, clients beyond it are late, and the round lasts until the deadline. What is not modelled: the server's own time,
clients that share one link, a device that goes away while it works, and heat.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import fsum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlearn.devices.profiles import Devices, Profile
from fedlearn.records.line import DevicesLine

PARTS = ("away", "down", "compute", "up")


@dataclass(frozen=True)
class Spent:
    """Seconds of one client in one round, in the order in which they pass."""

    away: float  # until the device may be asked
    down: float
    compute: float
    up: float

    @property
    def total(self) -> float:
        """Return their sum."""
        return self.away + self.down + self.compute + self.up

    def until(self, limit: float) -> Spent:
        """Return what of it passes before a limit."""
        parts, left = [], limit
        for part in PARTS:
            parts.append(min(getattr(self, part), left))
            left -= parts[-1]
        return Spent(*parts)


def spent(
    profile: Profile, away_s: float, bytes_down: float, flops: float, bytes_up: float
) -> Spent:
    """Return the seconds that a client's part of a round takes on a device."""
    latency = profile.latency_ms / 1000
    return Spent(
        away_s,
        latency + 8 * bytes_down / (1e6 * profile.down_mbps),
        flops / profile.flops,
        latency + 8 * bytes_up / (1e6 * profile.up_mbps),
    )


def joules(profile: Profile, time: Spent) -> float:
    """Return the energy that a client's part adds, above what its device takes when idle."""
    return (profile.train_w - profile.idle_w) * time.compute + (
        profile.radio_w - profile.idle_w
    ) * (time.down + time.up)


class Clock:
    """The time of a run on its simulated devices; see the module."""

    def __init__(self, devices: Devices, deadline_s: float, raw_bytes: int) -> None:
        """Take the devices. deadline_s: 0 = none. raw_bytes: of a whole model, what is expected before the first round."""
        self.devices, self.deadline_s = devices, deadline_s
        self.now_s = 0.0
        self.usual = (
            float(raw_bytes),
            float(raw_bytes),
        )  # bytes down and up of a client in the last round
        self._round: dict[
            int, tuple[Spent, bool]
        ] = {}  # of what runs now: client → its seconds, whether it is late
        self._bytes = (0, 0, 0)  # of the same: messages, down, up
        self._begun_s = 0.0  # when it began
        self._line = _empty()

    def begin(self) -> None:
        """Start the clients of one cohort, all at once."""
        self._round, self._bytes = {}, (0, 0, 0)
        self._begun_s = self.now_s

    def add(
        self, client: int, bytes_down: int, flops: float, bytes_up: int
    ) -> tuple[Spent, bool]:
        """Return a client's seconds, and whether it is late."""
        time = spent(
            self.devices.of(client),
            self.devices.away_of(client, self._begun_s),
            bytes_down,
            flops,
            bytes_up,
        )
        late = bool(self.deadline_s) and time.total > self.deadline_s
        self._round[client] = (time, late)
        if bytes_up:
            count, down, up = self._bytes
            self._bytes = (count + 1, down + bytes_down, up + bytes_up)
        return time, late

    def end(self) -> None:
        """Let the time of the cohort pass; sums go by client, so that the order of answers changes no bit."""
        if not self._round:
            return
        late = any(late for _, late in self._round.values())
        lasted = (
            self.deadline_s
            if late
            else max(time.total for time, _ in self._round.values())
        )
        rows: dict[str, list[tuple[Spent, float, bool]]] = {}
        for client, (time, is_late) in sorted(self._round.items()):
            within = time.until(lasted)
            energy = joules(self.devices.of(client), within)
            rows.setdefault(self.devices.name(client), []).append(
                (within, energy, is_late)
            )
        for name in [name for name in self.devices.names if name in rows]:
            _count(
                self._line["by_profile"].setdefault(name, dict.fromkeys(KEYS, 0)),
                rows[name],
                lasted,
            )
        self.now_s += lasted
        self._line["seconds"] += lasted
        count, down, up = self._bytes
        if count:
            self.usual = (down / count, up / count)
        self._round = {}

    def expected_s(self, flops: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the seconds that each client would need from when it may be asked, (N,), with payloads as in the last round."""
        each, (down, up) = self.devices.each, self.usual
        transfer = 8e-6 * (
            down / each("down_mbps") + up / each("up_mbps")
        ) + 2e-3 * each("latency_ms")
        return transfer + flops / each("flops")

    def take(self) -> DevicesLine:
        """Return what `metrics.jsonl` says of the round that ends, and begin the next one.

        Seconds of ``by_profile`` are sums over its clients; ``wait`` is for others. Joules are above idle.
        """
        line, self._line = self._line, _empty()
        parts = line["by_profile"].values()
        line["now_s"] = self.now_s
        line["joules"] = fsum(p["joules"] for p in parts)
        line["late"] = int(sum(p["late"] for p in parts))
        return line

    def sync(self) -> dict[str, NDArray[Any]]:
        """Return what a checkpoint has to hold."""
        return {"devices.clock": np.array([self.now_s, *self.usual])}

    def checkpointed(self) -> None:
        """Do nothing: all is in the checkpoint."""

    def recall(
        self,
        saved: Mapping[str, NDArray[Any]] | None,
        older: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        """Go back to what a checkpoint holds; None: to the beginning."""
        if saved is not None:
            self.now_s, down, up = (float(value) for value in saved["devices.clock"])
            self.usual = (down, up)


KEYS = ("clients", "late", *PARTS, "wait", "joules")
"""What is told of each profile in a round."""


def _empty() -> DevicesLine:
    return {"seconds": 0.0, "by_profile": {}, "now_s": 0.0, "joules": 0.0, "late": 0}


def _count(
    row: dict[str, float], found: list[tuple[Spent, float, bool]], lasted: float
) -> None:
    row["clients"] += len(found)
    row["late"] += sum(late for _, _, late in found)
    row["joules"] += fsum(energy for _, energy, _ in found)
    for part in PARTS:
        row[part] += fsum(getattr(time, part) for time, _, _ in found)
    row["wait"] += fsum(max(0.0, lasted - time.total) for time, _, _ in found)
