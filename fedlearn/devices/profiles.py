"""What a client may run on: compute, link, availability and power, and which client has which.

Every figure has its origin in the comment above its profile. Effective FLOP/s are a peak times the
share of it that training reaches. Links, idle and radio power are assumptions of the right order;
a config may set its own.

Legend: N clients.
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

# Share of a CPU's float32 peak. Measured for McMahan's CNN on x86 (two processes, one thread
# each, 117 of 487 GFLOP/s); assumed for ARM.
CPU_SHARE = 0.24

# Share of a GPU's float32 peak: assumed. Batches of ten leave most of a GPU idle.
GPU_SHARE = 0.10


@dataclass(frozen=True)
class DeviceProfile:
    """One kind of device. Power, in watts, is of the whole board or phone.

    The names of the fields are the keys of ``[devices.profile.NAME]`` and of the manifest.
    """

    # Per second, effective, of training.
    flops: float
    # In 10**6 bits per second.
    up_mbps: float
    down_mbps: float
    # Switched on and waiting; while it computes; while it sends or receives.
    idle_w: float
    train_w: float
    radio_w: float
    # Of one transfer, each way.
    latency_ms: float = 0.0
    # Share of each period in which the device may be asked.
    available: float = 1.0
    period_h: float = 24.0


# The built-in profiles by name.
PROFILES: dict[str, DeviceProfile] = {
    # NVIDIA's data sheet: 128 CUDA cores at 921 MHz, power modes 5 and 10 W.
    # 2 FLOP x 128 x 0.921 GHz.
    "jetson-nano": DeviceProfile(
        flops=236e9 * GPU_SHARE,
        up_mbps=10,
        down_mbps=30,
        idle_w=2,
        train_w=10,
        radio_w=3.5,
        latency_ms=50,
    ),
    # NVIDIA's data sheet of the 8 GB module: 1,024 CUDA cores at 625 MHz, power modes
    # 7 and 15 W.
    "orin-nano": DeviceProfile(
        flops=1280e9 * GPU_SHARE,
        up_mbps=10,
        down_mbps=30,
        idle_w=4,
        train_w=15,
        radio_w=5.5,
        latency_ms=50,
    ),
    # NVIDIA's data sheet of the 16 GB module: 1,024 CUDA cores at 918 MHz, power modes
    # 10 to 25 W.
    "orin-nx": DeviceProfile(
        flops=1880e9 * GPU_SHARE,
        up_mbps=10,
        down_mbps=30,
        idle_w=5,
        train_w=25,
        radio_w=6.5,
        latency_ms=50,
    ),
    # Four Cortex-A72 at 1.5 GHz, 8 float32 operations a cycle (Arm's optimisation guide).
    # Power: assumed.
    "pi-4": DeviceProfile(
        flops=48e9 * CPU_SHARE,
        up_mbps=10,
        down_mbps=50,
        idle_w=2.7,
        train_w=6.4,
        radio_w=3.5,
        latency_ms=20,
    ),
    # Four Cortex-A76 at 2.4 GHz, 16 float32 operations a cycle. Power: assumed.
    "pi-5": DeviceProfile(
        flops=154e9 * CPU_SHARE,
        up_mbps=10,
        down_mbps=50,
        idle_w=3,
        train_w=9,
        radio_w=4,
        latency_ms=20,
    ),
    # Two large cores at 2.2 GHz, 16 operations a cycle; asked while it charges at night on
    # Wi-Fi. All assumed.
    "phone": DeviceProfile(
        flops=70e9 * CPU_SHARE,
        up_mbps=10,
        down_mbps=50,
        idle_w=0.5,
        train_w=3.5,
        radio_w=1.5,
        latency_ms=30,
        available=1 / 3,
    ),
    # 16 x86 cores of 243 GFLOP/s each, as measured for CPU_SHARE. Link and power: assumed.
    "server": DeviceProfile(
        flops=16 * 243e9 * CPU_SHARE,
        up_mbps=1000,
        down_mbps=1000,
        idle_w=80,
        train_w=200,
        radio_w=85,
        latency_ms=2,
    ),
}

# Named shares, profile → its share. Of twenty clients, "edge" gives these very numbers.
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


@dataclass(frozen=True)
class Devices:
    """The devices of N clients: profiles by name, which one each client has, when periods begin.

    kind: (N,) place in ``names``. phase: (N,) share of a period that is over at time 0.
    """

    names: tuple[str, ...]
    profiles: tuple[DeviceProfile, ...]
    kind: NDArray[np.int64]
    phase: NDArray[np.float64]

    def of(self, client: int) -> DeviceProfile:
        """Return a client's profile."""
        place = int(self.kind[client])
        return self.profiles[place]

    def name(self, client: int) -> str:
        """Return the name of a client's profile."""
        place = int(self.kind[client])
        return self.names[place]

    def counts(self) -> dict[str, int]:
        """Return how many clients have each profile."""
        kinds = len(self.names)
        # A profile that no client has is counted too, as 0.
        counts = np.bincount(self.kind, minlength=kinds)
        return dict(zip(self.names, counts.tolist(), strict=True))

    def each(self, field: str) -> NDArray[np.float64]:
        """Return one field of every client's profile, (N,)."""
        values = [getattr(profile, field) for profile in self.profiles]
        by_kind = np.array(values, np.float64)
        return by_kind[self.kind]

    def away_s(self, now_s: float) -> NDArray[np.float64]:
        """Return the seconds until each client may be asked, (N,); 0 for those that may be now."""
        period_s = 3600 * self.each("period_h")
        seconds: NDArray[np.float64] = _away(
            now_s, period_s, self.each("available"), self.phase
        )
        return seconds

    def away_of(self, client: int, now_s: float) -> float:
        """Return what `away_s` does for one client.

        The arithmetic is the same, so that both agree to the last bit.
        """
        profile = self.of(client)
        period_s = np.float64(3600 * profile.period_h)
        share = np.float64(profile.available)
        return float(_away(now_s, period_s, share, self.phase[client]))


def _away(now_s: float, period_s: Any, share: Any, phase: Any) -> Any:
    """Return the seconds until a device may be asked; arrays or single numbers.

    A device may be asked in the first ``share`` of each period. phase: share of a period that
    is over at time 0.
    """
    periods = now_s / period_s + phase
    # The share of the current period that is over.
    over = periods % 1
    until_next_s = (1 - over) * period_s
    return np.where(over < share, 0.0, until_next_s)


def devices(section: DevicesSection, clients: int, seed: int) -> Devices:
    """Return the devices of an experiment's clients; a function of the config and the seed alone.

    The shares are rounded to whole clients by largest remainders. Raises ConfigError for an
    unknown mix or profile.
    """
    mix = section.mix
    if mix and mix not in MIXES:
        raise ConfigError(
            f"unknown mix '{mix}'.{nearest(mix, MIXES)} Known: {', '.join(MIXES)}"
        )
    shares = MIXES[mix] if mix else section.profiles
    profiles = [profile_of(section, name) for name in shares]
    # Those that no client has are looked at too: a mistake there is a mistake.
    for name in section.profile:
        profile_of(section, name)
    # 0 means as the profile says.
    links = {"up_mbps": section.up_mbps, "down_mbps": section.down_mbps}
    links = {key: mbps for key, mbps in links.items() if mbps}
    counts = apportion(list(shares.values()), clients)
    kinds = np.repeat(np.arange(len(shares)), counts)
    return Devices(
        tuple(shares),
        tuple(replace(profile, **links) for profile in profiles),
        generator(seed, "devices").permutation(kinds),
        generator(seed, "device-phase").random(clients),
    )


def apportion(shares: list[float], total: int) -> list[int]:
    """Return whole numbers that sum to ``total``, in the given proportion.

    By largest remainders (Hamilton's method); the first of equal remainders wins.
    """
    exact = [total * share / sum(shares) for share in shares]
    # Rounded down first, so that something is missing and never too much.
    counts = [int(value) for value in exact]
    # Largest remainder first; Python's sort keeps the order of equal ones.
    order = sorted(range(len(shares)), key=lambda i: counts[i] - exact[i])
    missing = total - sum(counts)
    for i in order[:missing]:
        counts[i] += 1
    return counts


def profile_of(section: DevicesSection, name: str) -> DeviceProfile:
    """Return a profile by name: built in, the config's, or a built-in one with changed figures.

    Raises ConfigError when there is none, or when it lacks figures.
    """
    configured = section.profile.get(name)
    if configured is None:
        if name in PROFILES:
            return PROFILES[name]
        known = {**PROFILES, **section.profile}
        raise ConfigError(
            f"unknown profile '{name}'.{nearest(name, known)} Known: {', '.join(known)}"
        )
    figures = configured.model_dump(exclude={"like"}, exclude_none=True)
    like = configured.like or (name if name in PROFILES else "")
    if not like:
        return _complete_profile(name, figures)
    if like not in PROFILES:
        raise ConfigError(
            f"profile.{name}: like = '{like}' is no built-in profile."
            f"{nearest(like, PROFILES)} Known: {', '.join(PROFILES)}"
        )
    return replace(PROFILES[like], **figures)


def _complete_profile(name: str, figures: dict[str, Any]) -> DeviceProfile:
    """Return a profile of the config alone; raises ConfigError for figures that are absent."""
    required = [f.name for f in fields(DeviceProfile) if f.default is MISSING]
    absent = [key for key in required if key not in figures]
    if absent:
        raise ConfigError(
            f"profile.{name} lacks {', '.join(absent)}; give them, or like = "
            f'"{next(iter(PROFILES))}" for those of another'
        )
    return DeviceProfile(**figures)
