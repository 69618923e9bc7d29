"""What a client may run on: compute, link, availability and power, and which client has which.

Every figure has its origin in the comment above its profile. Effective FLOP/s are a peak times the share of it that
training reaches. Links, idle and radio power are assumptions, of the right order; a config may set its own.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlearn.config import DevicesSection
from fedlearn.errors import ConfigError
from fedlearn.names import nearest
from fedlearn.seeds import generator

CPU_SHARE = 0.24
"""Share of a CPU's float32 peak: measured for McMahan's CNN on x86 (two processes, one thread each, 117 of 487 GFLOP/s);
assumed for ARM."""

GPU_SHARE = 0.10
"""Share of a GPU's float32 peak: assumed. Batches of ten leave most of a GPU idle."""


@dataclass(frozen=True)
class Profile:
    """One kind of device. Power is of the whole board or phone."""

    flops: float  # per second, effective, of training
    up_mbps: float  # 10**6 bits per second
    down_mbps: float
    idle_w: float  # on, and waiting
    train_w: float  # while it computes
    radio_w: float  # while it sends or receives
    latency_ms: float = 0.0  # of one transfer, each way
    available: float = 1.0  # share of each period in which it may be asked
    period_h: float = 24.0


PROFILES: dict[str, Profile] = {
    # NVIDIA's data sheet: 128 CUDA cores at 921 MHz, power modes 5 and 10 W. 2 FLOP x 128 x 0.921 GHz.
    "jetson-nano": Profile(236e9 * GPU_SHARE, 10, 30, 2, 10, 3.5, latency_ms=50),
    # NVIDIA's data sheet of the 8 GB module: 1,024 CUDA cores at 625 MHz, power modes 7 and 15 W.
    "orin-nano": Profile(1280e9 * GPU_SHARE, 10, 30, 4, 15, 5.5, latency_ms=50),
    # NVIDIA's data sheet of the 16 GB module: 1,024 CUDA cores at 918 MHz, power modes 10 to 25 W.
    "orin-nx": Profile(1880e9 * GPU_SHARE, 10, 30, 5, 25, 6.5, latency_ms=50),
    # Four Cortex-A72 at 1.5 GHz, 8 float32 operations a cycle (Arm's optimisation guide). Power: assumed.
    "pi-4": Profile(48e9 * CPU_SHARE, 10, 50, 2.7, 6.4, 3.5, latency_ms=20),
    # Four Cortex-A76 at 2.4 GHz, 16 float32 operations a cycle. Power: assumed.
    "pi-5": Profile(154e9 * CPU_SHARE, 10, 50, 3, 9, 4, latency_ms=20),
    # Two large cores at 2.2 GHz, 16 operations a cycle; asked while it charges at night on Wi-Fi. All assumed.
    "phone": Profile(
        70e9 * CPU_SHARE, 10, 50, 0.5, 3.5, 1.5, latency_ms=30, available=1 / 3
    ),
    # 16 x86 cores of 243 GFLOP/s each, as measured where CPU_SHARE was. Link and power: assumed.
    "server": Profile(16 * 243e9 * CPU_SHARE, 1000, 1000, 80, 200, 85, latency_ms=2),
}

MIXES: dict[str, dict[str, float]] = {
    "edge": {
        "jetson-nano": 3,
        "orin-nano": 4,
        "orin-nx": 2,
        "pi-4": 4,
        "pi-5": 3,
        "phone": 3,
        "server": 1,
    },
    "boards": {"jetson-nano": 2, "orin-nano": 5, "orin-nx": 3},
    "phones": {"phone": 1},
}
"""Named shares; of twenty clients, "edge" gives these very numbers."""


@dataclass(frozen=True)
class Devices:
    """The devices of N clients: profiles by name, which one each client has, and when its periods begin.

    kind: (N,) place in ``names``. phase: (N,) share of a period that is over at time 0.
    """

    names: tuple[str, ...]
    profiles: tuple[Profile, ...]
    kind: NDArray[np.int64]
    phase: NDArray[np.float64]

    def of(self, client: int) -> Profile:
        """Return a client's profile."""
        return self.profiles[int(self.kind[client])]

    def name(self, client: int) -> str:
        """Return the name of a client's profile."""
        return self.names[int(self.kind[client])]

    def counts(self) -> dict[str, int]:
        """Return how many clients have each profile."""
        found = np.bincount(self.kind, minlength=len(self.names))
        return {name: int(count) for name, count in zip(self.names, found, strict=True)}

    def each(self, field: str) -> NDArray[np.float64]:
        """Return one field of every client's profile, (N,)."""
        return np.array(
            [getattr(profile, field) for profile in self.profiles], np.float64
        )[self.kind]

    def away_s(self, now_s: float) -> NDArray[np.float64]:
        """Return the seconds until each client may be asked, (N,); 0 for those that may be now."""
        found: NDArray[np.float64] = _away(
            now_s, 3600 * self.each("period_h"), self.each("available"), self.phase
        )
        return found

    def away_of(self, client: int, now_s: float) -> float:
        """Return what `away_s` does for one client, in the same arithmetic."""
        profile = self.of(client)
        return float(
            _away(
                now_s,
                np.float64(3600 * profile.period_h),
                np.float64(profile.available),
                self.phase[client],
            )
        )


def _away(now_s: float, period_s: Any, share: Any, phase: Any) -> Any:
    """Return the seconds until a device may be asked; arrays or single numbers."""
    over = (now_s / period_s + phase) % 1
    return np.where(over < share, 0.0, (1 - over) * period_s)


def devices(section: DevicesSection, clients: int, seed: int) -> Devices:
    """Return the devices of an experiment's clients; a function of the config and the seed alone.

    The shares are rounded to whole clients by largest remainders. Raises ConfigError for an unknown mix or profile.
    """
    if section.mix and section.mix not in MIXES:
        raise ConfigError(
            f"unknown mix '{section.mix}'.{nearest(section.mix, MIXES)} Known: {', '.join(MIXES)}"
        )
    shares = MIXES[section.mix] if section.mix else section.profiles
    profiles = {name: profile_of(section, name) for name in shares}
    for name in section.profile:
        profile_of(
            section, name
        )  # also those that no client has: a mistake there is one
    links = {
        key: value
        for key in ("up_mbps", "down_mbps")
        if (value := getattr(section, key))
    }
    kind = np.repeat(np.arange(len(shares)), apportion(list(shares.values()), clients))
    return Devices(
        tuple(shares),
        tuple(replace(profile, **links) for profile in profiles.values()),
        generator(seed, "devices").permutation(kind),
        generator(seed, "device-phase").random(clients),
    )


def apportion(shares: list[float], total: int) -> list[int]:
    """Return whole numbers that sum to ``total``, in the given proportion, by largest remainders; the first wins a tie."""
    exact = [total * share / sum(shares) for share in shares]
    counts = [int(value) for value in exact]
    order = sorted(range(len(shares)), key=lambda i: counts[i] - exact[i])
    for i in order[: total - sum(counts)]:
        counts[i] += 1
    return counts


def profile_of(section: DevicesSection, name: str) -> Profile:
    """Return a profile by name: built in, of the config, or a built-in one of which the config changes some figures.

    Raises ConfigError when there is none, or when it lacks figures.
    """
    own = section.profile.get(name)
    if own is None and name not in PROFILES:
        known = {**PROFILES, **section.profile}
        raise ConfigError(
            f"unknown profile '{name}'.{nearest(name, known)} Known: {', '.join(known)}"
        )
    given = own.model_dump(exclude={"like"}, exclude_none=True) if own else {}
    like = (own.like if own else "") or (name if name in PROFILES else "")
    if like and like not in PROFILES:
        raise ConfigError(
            f"profile.{name}: like = '{like}' is no built-in profile.{nearest(like, PROFILES)} Known: {', '.join(PROFILES)}"
        )
    if like:
        return replace(PROFILES[like], **given)
    lacking = [
        f.name for f in fields(Profile) if f.default is MISSING and f.name not in given
    ]
    if lacking:
        raise ConfigError(
            f'profile.{name} lacks {", ".join(lacking)}; give them, or like = "{next(iter(PROFILES))}" for those of another'
        )
    return Profile(**given)
