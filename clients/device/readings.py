"""How the device is doing, as Linux tells it in files below `/sys`, `/proc`, `/etc` and `/var`.

Every function takes the ROOT that these folders lie in, so a test describes a board by writing
a folder. Nothing here raises: what a board does not have, or does not let this process read, is
None. Only the standard library is imported.

Sources: the kernel's documentation of sysfs (thermal, power_supply, hwmon, ina3221), cgroup v2
and procfs; NVIDIA's Jetson Linux developer guide for power modes and rails.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedlearn.clients.device.sysfiles import (
    ROOT,
    find,
    folders,
    number,
    text,
    thousandth,
)

# Rails that carry all of a board's power: of Orin Nano, Orin NX and Xavier NX; of Thor; of Nano.
BOARD_RAILS = ("VDD_IN", "VIN", "POM_5V_IN")

# Channels that lead nowhere, or hang on a rail that is measured as well (AGX Orin: VIN_SYS_5V0).
NOT_ADDED = ("NC", "VDDQ_VDD2_1V8AO")

# Channels of an INA3221; beyond them stand shunt voltages and sums.
_CHANNELS = (1, 2, 3)

# Names of links over a mobile network begin so.
MODEMS = ("wwan", "ppp", "rmnet")

# °C; other values of a sensor, or of a trip point, say that it is off.
_LEAST_CELSIUS = -40
_LEAST_TRIP_CELSIUS = 40
_MOST_CELSIUS = 200


@dataclass(frozen=True)
class Zone:
    """A sensor of temperature, °C."""

    name: str
    celsius: float
    # Where the kernel slows the board, and where it switches the board off.
    slows_c: float | None = None
    stops_c: float | None = None


@dataclass(frozen=True)
class Battery:
    """What feeds the device."""

    # The battery is used up, as there is no mains.
    drawing: bool
    # Its charge, None where it is not told.
    percent: float | None = None


@dataclass(frozen=True)
class PowerMode:
    """A mode of nvpmodel."""

    number: int
    name: str
    # What the name says, infinite for MAXN, None for other names.
    watts: float | None


@dataclass(frozen=True)
class Reading:
    """How the device is doing at one moment."""

    zones: tuple[Zone, ...] = ()
    battery: Battery | None = None
    power_mode: PowerMode | None = None
    # Memory that a process here can still have.
    free_bytes: int | None = None
    # The interface of the default route, and whether it is one of a mobile network.
    link: str | None = None
    modem: bool = False
    # Drawn by the board.
    watts: float | None = None

    @property
    def hottest(self) -> Zone | None:
        """Return the hottest zone."""
        return max(self.zones, key=lambda zone: zone.celsius, default=None)


@dataclass
class Energy:
    """Joules drawn over a time, summed from readings of the power.

    Between two readings counts their mean times the time between. joules: None where nothing
    was measured.
    """

    joules: float | None = None
    _last: tuple[float, float] | None = None

    def add(self, now: float, watts: float | None) -> None:
        """Take a reading; None: it failed, and is bridged. now: seconds of a steady clock."""
        if watts is None:
            return
        if self._last is not None:
            last_now, last_watts = self._last
            joules = (now - last_now) * (watts + last_watts) / 2
            self.joules = (self.joules or 0.0) + joules
        self._last = now, watts


def read(root: Path = ROOT) -> Reading:
    """Return how the device is doing."""
    link = default_link(root)
    return Reading(
        zones(root),
        battery(root),
        power_mode(root),
        free_bytes(root),
        link,
        link is not None and is_modem(link, root),
        watts(root),
    )


def zones(root: Path = ROOT) -> tuple[Zone, ...]:
    """Return the temperatures.

    A zone whose part is switched off says so by an error, or by a value that cannot be; it is
    left out.
    """
    readable = []
    for folder in folders(root / "sys/class/thermal", "thermal_zone*"):
        celsius = thousandth(folder / "temp")
        if celsius is None or not _LEAST_CELSIUS <= celsius <= _MOST_CELSIUS:
            continue
        name = text(folder / "type") or folder.name
        # "passive" is where the kernel slows the board down; the lowest one comes
        # first.
        slows_c = min(_trips(folder, ("passive",)), default=None)
        stops_c = min(_trips(folder, ("hot", "critical")), default=None)
        readable.append(Zone(name, celsius, slows_c, stops_c))
    return tuple(readable)


def _trips(zone: Path, kinds: Sequence[str]) -> Iterator[float]:
    """Yield the trip points of some kinds of a zone, °C."""
    for path in zone.glob("trip_point_*_type"):
        celsius = thousandth(path.with_name(path.name.replace("_type", "_temp")))
        if celsius is None or text(path) not in kinds:
            continue
        # 0 and less: the trip point is not used.
        if _LEAST_TRIP_CELSIUS <= celsius <= _MOST_CELSIUS:
            yield celsius


def battery(root: Path = ROOT) -> Battery | None:
    """Return the battery that feeds the device; that of a mouse does not.

    The emptiest of several counts.
    """
    has_mains = False
    has_battery = False
    is_discharging = False
    charges = []
    for folder in folders(root / "sys/class/power_supply", "*"):
        kind = text(folder / "type")
        # "Device": the battery of a mouse or a pen. present 0: an empty slot.
        if text(folder / "scope") == "Device" or number(folder / "present") == 0:
            continue
        if kind in ("Mains", "USB", "Wireless"):
            has_mains = has_mains or bool(number(folder / "online"))
        elif kind in ("Battery", "UPS"):
            has_battery = True
            if text(folder / "status") == "Discharging":
                is_discharging = True
            charge = _charge(folder)
            if charge is not None:
                charges.append(charge)
    if not has_battery:
        return None
    return Battery(is_discharging and not has_mains, min(charges, default=None))


def _charge(folder: Path) -> float | None:
    """Return a battery's charge in percent."""
    percent = number(folder / "capacity")
    if percent is not None:
        return percent
    # Firmware gives either energy (µWh) or charge (µAh); the quotient has no unit.
    for quantity in ("energy", "charge"):
        present = number(folder / f"{quantity}_now")
        full = number(folder / f"{quantity}_full")
        if present is not None and full:
            return round(100 * present / full, 1)
    return None


def power_mode(root: Path = ROOT) -> PowerMode | None:
    """Return the mode that nvpmodel has set."""
    # It keeps the number in one file and the names in another.
    digits = find(root / "var/lib/nvpmodel/status", r"pmode:(\d+)")
    if digits is None:
        return None
    mode = int(digits)
    config = root / "etc/nvpmodel.conf"
    pattern = rf"<\s*POWER_MODEL\s+ID={mode}\s+NAME=(\S+)\s*>"
    name = find(config, pattern) or f"mode {mode}"
    limit = re.search(r"(?<!\d)(\d+)W", name)
    if limit:
        return PowerMode(mode, name, float(limit[1]))
    # MAXN: no limit of power.
    return PowerMode(mode, name, float("inf") if name.startswith("MAXN") else None)


def free_bytes(root: Path = ROOT) -> int | None:
    """Return the memory that a process here can still have.

    The machine bounds it, and every control group that this process is in.
    """
    bounds = []
    available_kb = find(root / "proc/meminfo", r"^MemAvailable:\s+(\d+) kB")
    if available_kb is not None:
        bounds.append(int(available_kb) * 1024)
    group = find(root / "proc/self/cgroup", r"^0::/(.*)$") or ""
    # A group outside of this process's namespace begins with "..".
    names = [name for name in group.split("/") if name not in ("", "..")]
    # The root's limit counts too: a container sees its own group as the root.
    for depth in range(len(names) + 1):
        folder = (root / "sys/fs/cgroup").joinpath(*names[:depth])
        bound = _group_free_bytes(folder)
        if bound is not None:
            bounds.append(bound)
    return min(bounds, default=None)


def _group_free_bytes(folder: Path) -> int | None:
    """Return the bytes that a control group has left; None: it has no limit."""
    limit = number(folder / "memory.max")
    usage = number(folder / "memory.current")
    if limit is None or usage is None:
        return None
    # Pages of files that were not used lately are given back before anything fails.
    idle = int(find(folder / "memory.stat", r"^inactive_file (\d+)$") or 0)
    return max(0, int(limit - usage) + idle)


def default_link(root: Path = ROOT) -> str | None:
    """Return the interface that packets leave by, of IPv4 or else of IPv6."""
    try:
        routes = _routes_v4(root) or _routes_v6(root)
    except ValueError:
        return None
    if not routes:
        return None
    # The kernel takes the lowest metric.
    return min(routes)[1]


def _routes_v4(root: Path) -> list[tuple[int, str]]:
    """Return metric and interface of each default route; raises ValueError."""
    routes = []
    for line in text(root / "proc/net/route").splitlines()[1:]:
        fields = line.split()
        # Destination and mask are 0.
        if len(fields) > 7 and fields[1] == fields[7] == "00000000":
            routes.append((int(fields[6]), fields[0]))
    return routes


def _routes_v6(root: Path) -> list[tuple[int, str]]:
    """Return metric and interface of each default route; raises ValueError."""
    routes = []
    for line in text(root / "proc/net/ipv6_route").splitlines():
        fields = line.split()
        # The prefix has no bits. The kernel's own route to nowhere is on lo.
        if len(fields) > 9 and fields[1] == "00" and fields[9] != "lo":
            routes.append((int(fields[5], 16), fields[9]))
    return routes


def is_modem(link: str, root: Path = ROOT) -> bool:
    """Tell whether an interface is one of a mobile network."""
    if link.startswith(MODEMS):
        return True
    return "DEVTYPE=wwan" in text(root / "sys/class/net" / link / "uevent")


def watts(root: Path = ROOT) -> float | None:
    """Return what the board draws, from its INA3221 (mV and mA by rail); None without one.

    It is that of the rail that carries everything, where there is one, or else the sum of those
    that are measured.
    """
    rails = dict(_rails(root))
    # A rail that carries all would be counted twice beside the rails that it feeds.
    for name in BOARD_RAILS:
        if name in rails:
            return rails[name]
    return sum(rails.values()) if rails else None


def _rails(root: Path) -> Iterator[tuple[str, float]]:
    """Yield the rails that are measured, and the watts of each."""
    for folder in folders(root / "sys/class/hwmon", "hwmon*"):
        if text(folder / "name") != "ina3221":
            continue
        for channel in _CHANNELS:
            name = text(folder / f"in{channel}_label") or f"{folder.name}/{channel}"
            volts = thousandth(folder / f"in{channel}_input")
            amperes = thousandth(folder / f"curr{channel}_input")
            if name not in NOT_ADDED and volts is not None and amperes is not None:
                yield name, volts * amperes


def oom_kills(root: Path = ROOT) -> int | None:
    """Return how many processes the kernel has killed for want of memory since it started."""
    count = find(root / "proc/vmstat", r"^oom_kill (\d+)$")
    return None if count is None else int(count)
