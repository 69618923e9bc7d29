"""What the device is and how it is doing, as Linux tells it in files below `/sys`, `/proc`, `/etc` and `/var`.

Every function takes the ROOT that these folders lie in, so that a test describes a board by writing a folder. Nothing here
raises: what a board does not have, or does not let this process read, is None. Only the standard library is imported.

Sources: the kernel's documentation of sysfs (thermal, power_supply, hwmon, ina3221), cgroup v2 and procfs; NVIDIA's Jetson
Linux developer guide for power modes and rails.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")

JETPACK = {
    "36.3": "6.0",
    "36.4": "6.1",
    "36.4.3": "6.2",
    "36.4.4": "6.2.1",
    "38.2": "7.0",
    "38.2.1": "7.0",
}
"""JetPack by release of Jetson Linux, from NVIDIA's archive; of others only the first number is told."""

FAMILY = {"32": "4", "34": "5", "35": "5", "36": "6", "38": "7"}

WHOLE = ("VDD_IN", "VIN", "POM_5V_IN")
"""Rails that carry all of a board's power: of Orin Nano, Orin NX and Xavier NX; of Thor; of Nano."""

NOT_ADDED = ("NC", "VDDQ_VDD2_1V8AO")
"""Channels that lead nowhere, or hang on a rail that is measured as well (AGX Orin: VIN_SYS_5V0)."""

MODEMS = ("wwan", "ppp", "rmnet")
"""How the links over a mobile network are called."""

LONGEST = 80
"""Characters of a text in `facts`: all of them together stay below 4 KB of JSON."""


@dataclass(frozen=True)
class Zone:
    """A sensor of temperature, °C, and where the kernel acts: it slows the board, or switches it off."""

    name: str
    celsius: float
    slows_c: float | None = None
    stops_c: float | None = None


@dataclass(frozen=True)
class Battery:
    """What feeds the device; percent: charge, None where it is not told."""

    drawing: bool  # it is used up: no mains
    percent: float | None = None


@dataclass(frozen=True)
class PowerMode:
    """A mode of nvpmodel; watts: what its name says, infinite for MAXN, None for other names."""

    number: int
    name: str
    watts: float | None


@dataclass(frozen=True)
class Reading:
    """How the device is doing at one moment."""

    zones: tuple[Zone, ...] = ()
    battery: Battery | None = None
    power_mode: PowerMode | None = None
    free_bytes: int | None = None  # that a process here can still have
    link: str | None = None  # the interface of the default route
    modem: bool = False  # it is one of a mobile network
    watts: float | None = None  # drawn by the board

    @property
    def hottest(self) -> Zone | None:
        """Return the hottest zone."""
        return max(self.zones, key=lambda zone: zone.celsius, default=None)


@dataclass
class Energy:
    """Joules drawn over a time, summed from readings of the power: the mean of two neighbours times the time between."""

    joules: float | None = None  # None: nothing was measured
    _last: tuple[float, float] | None = None

    def add(self, now: float, watts: float | None) -> None:
        """Take a reading; now: seconds of a clock that never goes back. A reading that failed is bridged."""
        if watts is None:
            return
        if self._last is not None:
            then, before = self._last
            self.joules = (self.joules or 0.0) + (now - then) * (watts + before) / 2
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
    """Return the temperatures; a zone whose part is switched off says so by an error or a value that cannot be."""
    found = []
    for folder in _folders(root / "sys/class/thermal", "thermal_zone*"):
        celsius = _milli(folder / "temp")
        if celsius is None or not -40 <= celsius <= 200:
            continue
        trips: dict[str, list[float]] = {}
        for kind in folder.glob("trip_point_*_type"):
            at = _milli(kind.with_name(kind.name.replace("_type", "_temp")))
            if at is not None and 40 <= at <= 200:  # 0 and less: the trip is not used
                trips.setdefault(_text(kind) or "", []).append(at)
        stops = [*trips.get("hot", []), *trips.get("critical", [])]
        name = _text(folder / "type") or folder.name
        found.append(
            Zone(
                name,
                celsius,
                min(trips.get("passive", []), default=None),
                min(stops, default=None),
            )
        )
    return tuple(found)


def battery(root: Path = ROOT) -> Battery | None:
    """Return the battery that feeds the device; that of a mouse does not. Of several the emptiest counts."""
    mains, drawing, charges = False, False, list[float]()
    found = False
    for folder in _folders(root / "sys/class/power_supply", "*"):
        kind = _text(folder / "type")
        if _text(folder / "scope") == "Device" or _number(folder / "present") == 0:
            continue
        if kind in ("Mains", "USB", "Wireless"):
            mains = mains or bool(_number(folder / "online"))
        elif kind in ("Battery", "UPS"):
            found = True
            drawing = drawing or _text(folder / "status") == "Discharging"
            charges += [charge for charge in [_charge(folder)] if charge is not None]
    return Battery(drawing and not mains, min(charges, default=None)) if found else None


def power_mode(root: Path = ROOT) -> PowerMode | None:
    """Return the mode that nvpmodel has set; it keeps the number in one file and the names in another."""
    told = re.search(r"pmode:(\d+)", _text(root / "var/lib/nvpmodel/status") or "")
    if not told:
        return None
    number = int(told[1])
    names = dict(
        re.findall(
            r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>",
            _text(root / "etc/nvpmodel.conf") or "",
        )
    )
    name = names.get(str(number), f"mode {number}")
    limit = re.search(r"(?<!\d)(\d+)W", name)
    return PowerMode(
        number,
        name,
        float(limit[1]) if limit else float("inf") if name.startswith("MAXN") else None,
    )


def free_bytes(root: Path = ROOT) -> int | None:
    """Return the memory that a process here can still have: of the machine, and of every control group that it is in."""
    told = re.search(
        r"^MemAvailable:\s+(\d+) kB", _text(root / "proc/meminfo") or "", re.MULTILINE
    )
    rooms = [int(told[1]) * 1024] if told else []
    group = re.search(
        r"^0::/(.*)$", _text(root / "proc/self/cgroup") or "", re.MULTILINE
    )
    parts = (
        [part for part in group[1].split("/") if part not in ("", "..")]
        if group
        else []
    )
    for depth in range(len(parts) + 1):
        folder = (root / "sys/fs/cgroup").joinpath(*parts[:depth])
        most, used = _number(folder / "memory.max"), _number(folder / "memory.current")
        if most is not None and used is not None:
            # Pages of files that were not used lately are given back before anything fails.
            idle = re.search(
                r"^inactive_file (\d+)$",
                _text(folder / "memory.stat") or "",
                re.MULTILINE,
            )
            rooms.append(max(0, int(most - used) + (int(idle[1]) if idle else 0)))
    return min(rooms, default=None)


def default_link(root: Path = ROOT) -> str | None:
    """Return the interface that packets leave by, of IPv4 or else of IPv6."""
    four = [
        line.split() for line in (_text(root / "proc/net/route") or "").splitlines()[1:]
    ]
    six = [
        line.split()
        for line in (_text(root / "proc/net/ipv6_route") or "").splitlines()
    ]
    with contextlib.suppress(ValueError):
        routes = [
            (int(parts[6]), parts[0])
            for parts in four
            if len(parts) > 7 and parts[1] == parts[7] == "00000000"
        ]
        routes = routes or [
            (int(parts[5], 16), parts[9])
            for parts in six
            if len(parts) > 9 and parts[1] == "00" and parts[9] != "lo"
        ]
        return min(routes, default=(0, None))[1]
    return None


def is_modem(link: str, root: Path = ROOT) -> bool:
    """Tell whether an interface is one of a mobile network."""
    return link.startswith(MODEMS) or "DEVTYPE=wwan" in (
        _text(root / "sys/class/net" / link / "uevent") or ""
    )


def watts(root: Path = ROOT) -> float | None:
    """Return what the board draws, from its INA3221 (mV and mA by rail); None without one.

    The rail that carries all of it where there is one, else the sum of those that are measured.
    """
    rails = dict(_rails(root))
    for name in WHOLE:
        if name in rails:
            return rails[name]
    return sum(rails.values()) if rails else None


def oom_kills(root: Path = ROOT) -> int | None:
    """Return how many processes the kernel has killed for want of memory since it started."""
    told = re.search(
        r"^oom_kill (\d+)$", _text(root / "proc/vmstat") or "", re.MULTILINE
    )
    return int(told[1]) if told else None


def facts(root: Path = ROOT) -> dict[str, str | int | float]:
    """Return what the coordinator may know of the device: flat, without what is not known, at most 4 KB as JSON.

    No address, name or number of the device or its owner is among them.
    """
    now, release = read(root), l4t(root)
    mode, hot = now.power_mode, now.hottest
    memory = re.search(
        r"^MemTotal:\s+(\d+) kB", _text(root / "proc/meminfo") or "", re.MULTILINE
    )
    system = re.search(
        r'^PRETTY_NAME="?([^"\n]*)', _text(root / "etc/os-release") or "", re.MULTILINE
    )
    found = {
        "board": board(root),
        "chip": chip(root),
        "machine": platform.machine(),
        "os": system[1] if system else None,
        "kernel": _text(root / "proc/sys/kernel/osrelease"),
        "l4t": release,
        "jetpack": jetpack(release) if release else None,
        "cpus": _cpus(root),
        "memory_mb": int(memory[1]) // 1024 if memory else None,
        "free_mb": now.free_bytes >> 20 if now.free_bytes is not None else None,
        "gpu": gpu(root),
        "python": platform.python_version(),
        "torch": torch_version(),
        "power_mode": mode.name if mode else None,
        "temperature_c": round(hot.celsius, 1) if hot else None,
        "watts": round(now.watts, 2) if now.watts is not None else None,
        "battery_percent": now.battery.percent if now.battery else None,
        "mains": ("no" if now.battery.drawing else "yes") if now.battery else None,
    }
    return {
        name: _short(value) if isinstance(value, str) else value
        for name, value in found.items()
        if value is not None
    }


def board(root: Path = ROOT) -> str | None:
    """Return the board's name, as its device tree or its BIOS tells it."""
    tree = _text(root / "proc/device-tree/model")
    if tree:
        return tree
    vendor, product = (
        _text(root / "sys/class/dmi/id/sys_vendor"),
        _text(root / "sys/class/dmi/id/product_name"),
    )
    return " ".join(part for part in (vendor, product) if part) or None


def chip(root: Path = ROOT) -> str | None:
    """Return the chip that a device tree is compatible with, e.g. "nvidia,tegra234"."""
    told = _text(root / "proc/device-tree/compatible")
    return told.split("\0")[-1] if told else None


def l4t(root: Path = ROOT) -> str | None:
    """Return the release of Jetson Linux, e.g. "36.4.3"; None on other systems."""
    told = re.search(
        r"^# R(\d+) \(release\), REVISION: (\d+(?:\.\d+)*)",
        _text(root / "etc/nv_tegra_release") or "",
    )
    return f"{told[1]}.{told[2].removesuffix('.0')}" if told else None


def jetpack(release: str) -> str | None:
    """Return the JetPack that a release of Jetson Linux belongs to: "6.2", or just "6"."""
    return JETPACK.get(release) or FAMILY.get(release.partition(".")[0])


def gpu(root: Path = ROOT) -> str | None:
    """Return the name of a GPU with a driver of its own; a Jetson's is part of the chip."""
    for folder in _folders(root / "proc/driver/nvidia/gpus", "*"):
        told = re.search(
            r"^Model:\s*(.+)$", _text(folder / "information") or "", re.MULTILINE
        )
        if told:
            return told[1]
    return None


def torch_version() -> str | None:
    """Return the version of the installed torch, by the name of its folder: importing it, or reading metadata, costs memory."""
    for place in sys.path:
        with contextlib.suppress(OSError):
            for name in os.listdir(place or "."):
                told = re.fullmatch(r"torch-([^-]+)\.(?:dist|egg)-info", name)
                if told:
                    return told[1]
    return None


def _rails(root: Path) -> Iterator[tuple[str, float]]:
    """Yield the rails that are measured, and the watts of each."""
    for folder in _folders(root / "sys/class/hwmon", "hwmon*"):
        if _text(folder / "name") != "ina3221":
            continue
        for channel in (1, 2, 3):  # beyond them stand shunt voltages and sums
            name = _text(folder / f"in{channel}_label") or f"{folder.name}/{channel}"
            volts, amperes = (
                _milli(folder / f"in{channel}_input"),
                _milli(folder / f"curr{channel}_input"),
            )
            if name not in NOT_ADDED and volts is not None and amperes is not None:
                yield name, volts * amperes


def _charge(folder: Path) -> float | None:
    told = _number(folder / "capacity")
    if told is not None:
        return told
    for what in ("energy", "charge"):
        now, full = _number(folder / f"{what}_now"), _number(folder / f"{what}_full")
        if now is not None and full:
            return round(100 * now / full, 1)
    return None


def _cpus(root: Path) -> int | None:
    """Return how many cores are switched on: low power modes switch some off."""
    told = _text(root / "sys/devices/system/cpu/online")
    if not told or not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", told):
        return None
    spans = [part.partition("-") for part in told.split(",")]
    return sum(int(last or first) - int(first) + 1 for first, _, last in spans)


def _folders(folder: Path, pattern: str) -> list[Path]:
    with contextlib.suppress(OSError):
        return sorted(folder.glob(pattern))
    return []


def _text(path: Path) -> str | None:
    try:
        return path.read_bytes().decode(errors="replace").strip("\0\n ")
    except (OSError, ValueError):
        return None


def _number(path: Path) -> float | None:
    """Return a file's number; "max" and other words are none."""
    try:
        return float(int(_text(path) or ""))
    except ValueError:
        return None


def _milli(path: Path) -> float | None:
    """Return a file's number of thousandths."""
    told = _number(path)
    return None if told is None else told / 1000


def _short(text: str) -> str:
    return "".join(c if " " <= c <= "~" else "?" for c in text[:LONGEST])
